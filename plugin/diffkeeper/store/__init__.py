"""The LMDB environment that all volumes share; it knows no paths of theirs."""

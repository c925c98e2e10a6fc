"""The LMDB environment that all volumes share; it does not know their paths."""

"""From a snapshot to a directory or a tar archive."""

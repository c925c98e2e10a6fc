"""File system access: the only layer that opens, renames, syncs and mounts."""

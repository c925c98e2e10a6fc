"""The stored snapshots of volumes: lists, references, retention, trash."""

"""From what changed in a live directory to a snapshot: scan, read, chunk, commit."""

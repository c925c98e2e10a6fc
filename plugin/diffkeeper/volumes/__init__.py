"""One volume: options, lifecycle states, mounts, live directory, status."""

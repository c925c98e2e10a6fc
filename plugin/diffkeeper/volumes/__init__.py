"""One volume: options, states, mounts, its live directory, what is told of it."""

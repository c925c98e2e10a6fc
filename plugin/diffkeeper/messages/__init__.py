"""What daemon and clients say to each other: typed structures, and the calls that carry them."""

"""The messages between daemon and clients: typed structures, and the calls that carry them."""

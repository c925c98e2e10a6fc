"""Commands for a person or a script; they talk to the running daemon over its socket."""

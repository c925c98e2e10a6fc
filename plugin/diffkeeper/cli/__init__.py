"""Commands for a person or a script, talking to the running daemon over its socket."""

"""The messages between daemon and clients: typed structures, and the calls that carry them.

Each call of the admin API is declared once, as an `Endpoint` below the structures of its subject,
and served by the module of that name in `api`. Bodies refuse unknown fields; the bounds here are
those of the messages, the handler checks whether a name, a path or a snapshot is well formed.
"""

"""DiffKeeper: a Docker volume plugin whose volumes remember every state they were in."""

__version__ = "0.1.0"

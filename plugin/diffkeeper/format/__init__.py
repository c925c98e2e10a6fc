"""Codecs of everything that is stored: pure, without I/O. `FORMAT.md` beside them is the format."""

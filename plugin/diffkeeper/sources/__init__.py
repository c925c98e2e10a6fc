"""Where to look: sources of hints about what changed. Hints are never truth; unsure means look."""

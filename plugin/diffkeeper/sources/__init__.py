"""Sources of hints about what changed. Hints may be wrong or missing; when unsure, scan."""

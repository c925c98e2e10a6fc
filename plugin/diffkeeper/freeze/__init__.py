"""Who writes to a volume, and how to freeze them: survey, cgroup freezer, guard, journal."""

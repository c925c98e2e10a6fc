"""Who writes to a volume, and how to stop them: survey, cgroup freezer, guard, journal."""

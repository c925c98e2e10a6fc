"""The volumes of one daemon: lifecycle, captures and maintenance, on threads and tasks."""

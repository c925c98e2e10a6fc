"""The volumes of one daemon: lifecycle, captures and maintenance, over threads and tasks."""

"""Running of work: launchers and their outcomes, lost jobs, progress, processes, memory."""

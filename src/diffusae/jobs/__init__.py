"""How work runs: launchers and their outcomes, lost jobs, progress, processes, memory."""

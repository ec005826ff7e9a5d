"""What a study will take: counts, times, and what storing less would save."""

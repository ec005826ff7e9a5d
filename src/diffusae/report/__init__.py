"""The report of a study: one self-contained HTML page. Plain values in, a page out."""

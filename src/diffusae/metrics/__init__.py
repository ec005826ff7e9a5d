"""The metrics: what each reads of a study, and the rows that it writes."""

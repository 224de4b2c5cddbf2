"""Sources of labelled video clips."""

"""Results of a sweep as curves, plots, settings for a target, and one HTML page."""

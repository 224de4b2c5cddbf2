"""Results of a sweep as curves, plots and one HTML page."""

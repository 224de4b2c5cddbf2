"""Figures of speed, scaling and agreement, measured side by side: `python -m benchmarks` lists what there is."""

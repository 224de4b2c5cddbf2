"""The trainer of both stages, its checkpoints and its logs."""

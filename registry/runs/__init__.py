"""Running a spec: training, encoding, export, inference."""

"""YAML to a checked Spec, and sweeps of specs."""

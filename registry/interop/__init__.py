"""Trained models with the interfaces of other libraries; each module imports its library."""

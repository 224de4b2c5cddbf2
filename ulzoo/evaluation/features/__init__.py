"""The networks whose features are compared, and their weights."""

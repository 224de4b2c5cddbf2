"""What a spec does: train, encode, export."""

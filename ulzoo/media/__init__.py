"""What models are trained on: pixels and captions."""

"""Models by name: packaged specs, released weights, the Hugging Face hub."""

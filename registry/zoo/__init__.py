"""Models by name: the catalogue, releases, the Hugging Face hub."""

"""Files: atomic writes, SHA-256, tensors in safetensors with a digest."""

"""Channel simulation along a diffusion process, and the format of the streams that it writes. No networks."""

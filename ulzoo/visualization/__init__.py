"""Pictures: grids of images, videos and contact sheets, plots of the rate."""

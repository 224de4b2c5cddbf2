"""Where examples are stored: folders, tar shards, URLs, and the manifests that describe them."""

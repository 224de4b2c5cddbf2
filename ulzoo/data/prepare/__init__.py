"""From published data sets to the shards that training reads."""

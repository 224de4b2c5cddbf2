"""From published datasets to the shards that training reads."""

"""Data sets of others, imported to shards."""

"""Shards: tars of samples, and the index that finds them."""

"""From shards to batches: formats, order, streams, decoding and the makers of data sets."""

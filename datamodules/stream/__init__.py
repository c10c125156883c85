"""From the plan to batches: reading, decoding, quarantine, Lightning."""

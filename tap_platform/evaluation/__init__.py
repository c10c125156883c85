"""How well a model segments and names held-out regions: scores, baselines, tables, pictures."""

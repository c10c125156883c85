"""LightningModules: what is optimized, and how."""

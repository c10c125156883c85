"""Concept priors: what a CLIP teacher is shown of every region, and where its answers are kept."""

"""Runs that are broken in the middle, on a real cluster, and what is left of them."""

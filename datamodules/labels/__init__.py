"""Masks for regions of which only a box is known, drawn by whoever can."""

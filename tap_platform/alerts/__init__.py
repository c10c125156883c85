"""Telling people of a run while it goes on; it only reads the run directory."""

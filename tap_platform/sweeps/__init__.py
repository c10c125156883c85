"""Sweeps: one job in many trials, on Ray Tune; each trial an ordinary run."""

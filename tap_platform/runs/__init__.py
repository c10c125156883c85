"""A run's life on disk, and the trackers that follow it."""

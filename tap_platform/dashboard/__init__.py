"""Pages over all runs and sweeps of a storage, and the servers that show them; no torch here."""

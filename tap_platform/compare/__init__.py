"""Runs side by side: their configs, their numbers with spread, their pictures; no torch here."""

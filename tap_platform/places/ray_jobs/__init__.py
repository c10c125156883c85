"""Runs on a Ray cluster that is there already, through its Jobs API."""

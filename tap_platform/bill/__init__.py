"""What runs took and brought, by team, project or person; no torch here."""

"""The config tree: torch-free pydantic sections."""

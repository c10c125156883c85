"""From bytes to frames and masks."""

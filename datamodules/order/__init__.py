"""The order of samples: arithmetic and counter-based draws."""

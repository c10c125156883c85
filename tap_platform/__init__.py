"""TAP Platform: distributed training for Tokenize Anything via Prompting and its kin."""

__version__ = "0.1.0"

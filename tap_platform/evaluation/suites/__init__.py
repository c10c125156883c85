"""The papers' evaluations: segmentation, zero-shot classification, prompts and captions."""

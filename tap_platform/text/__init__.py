"""Words and numbers: the tokenizer of captions."""

from __future__ import annotations

from tap_platform.text.tokenizer import Tokenizer

__all__ = ["Tokenizer"]

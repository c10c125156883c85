"""Vocabularies of concepts: lists of names, what a text encoder makes of them, released files."""

from __future__ import annotations

from tap_platform.concepts.build import build_vocabulary
from tap_platform.concepts.released import read_released_concepts
from tap_platform.concepts.sources import Concepts, find_concepts

__all__ = ["Concepts", "build_vocabulary", "find_concepts", "read_released_concepts"]

"""TAP as plain modules: encode an image once, then ask it about any region."""

from __future__ import annotations

from tap_platform.config.model import TapConfig
from tap_platform.models.concepts import ConceptProjector
from tap_platform.models.image_decoder import RegionOutput
from tap_platform.models.released import load_released_weights
from tap_platform.models.tap import Tap

__all__ = ["ConceptProjector", "RegionOutput", "Tap", "TapConfig", "load_released_weights"]

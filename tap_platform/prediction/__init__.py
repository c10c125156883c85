"""Masks, concepts and captions from a picture."""

from __future__ import annotations

from tap_platform.prediction.everything import EverythingSettings, segment_everything
from tap_platform.prediction.predictor import TapPredictor
from tap_platform.prediction.regions import Prediction

__all__ = ["EverythingSettings", "Prediction", "TapPredictor", "segment_everything"]

"""Training state as slices of named tensors: one format for every strategy and world size."""

from tap_platform.training.slices.slice import Slice, own_share, to_tensors
from tap_platform.training.slices.state import SlicedState

__all__ = ["Slice", "SlicedState", "own_share", "to_tensors"]

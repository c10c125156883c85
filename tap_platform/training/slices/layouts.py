"""The layout of a strategy, told by what it has made of the parameters."""

from __future__ import annotations

from lightning.pytorch.strategies import Strategy

from tap_platform.training.slices.layout import Layout
from tap_platform.training.slices.torch_layout import TorchLayout
from tap_platform.training.slices.zero_layout import ZeroPartitionedLayout, ZeroSteppedLayout


def layout_of(strategy: Strategy) -> Layout:
    """Where this worker keeps its share, once the strategy has set up model and optimizer."""
    module = strategy.lightning_module
    assert module is not None
    trained = next(p for p in module.parameters() if p.requires_grad)
    if hasattr(trained, "ds_id"):
        return ZeroPartitionedLayout(module, strategy.model)
    if hasattr(trained, "_hp_mapping"):
        return ZeroSteppedLayout(module, strategy.model)
    return TorchLayout(module, strategy.optimizers[0])

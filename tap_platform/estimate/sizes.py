"""Sizes as people write them."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_FLOP_UNITS = ("", "k", "M", "G", "T", "P", "E")


def as_bytes(size: float) -> str:
    """Bytes with three digits and a unit of thousands: `12.3 GB`."""
    return _scaled(size, _UNITS)


def as_flops(count: float) -> str:
    """Operations with three digits and a unit of thousands: `9.24 TFLOP`."""
    number, _, unit = _scaled(count, _FLOP_UNITS).partition(" ")
    return f"{number} {unit}FLOP"


def as_seconds(seconds: float) -> str:
    """Seconds, milliseconds, or minutes."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"


def as_hours(hours: float) -> str:
    """Hours, and days beside them where they are many: `2.12 hours`, `290 hours (12.1 days)`."""
    days = f" ({hours / 24:,.3g} days)" if hours >= 48 else ""
    return f"{_three_digits(hours)} hours{days}"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if abs(value) < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} {units[-1]}"

"""From a layout to a picture: background, soft shadows, textures, light and sensor noise."""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.scenes.appearance import Tone, texture_share
from datamodules.scenes.layout import MARGIN, Figure, Layout
from datamodules.scenes.outlines import Field

Canvas = NDArray[np.float32]


class Light(NamedTuple):
    """One light for the whole scene.

    Attributes:
        x, y: Unit vector in the picture plane that the light comes from; above, left or right.
        slope: How much brighter the lit side of the picture is than its middle.
        shadow: Opacity of shadows.
        noise: Deviation of the sensor's noise, as a share of white.
    """

    x: float
    y: float
    slope: float
    shadow: float
    noise: float


def paint(layout: Layout, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paint a scene back to front, with edges smoothed over one pixel.

    Args:
        layout: What stands where.
        rng: Source of the background, the light and the noise; the layout fixes all else.

    Returns:
        `[H, W, 3]` uint8 RGB.
    """
    light = _draw_light(rng)
    canvas = _background(layout.owner.shape, rng)
    for figure in layout.figures:
        _cast_shadow(canvas, figure, light)
        _paint_figure(canvas, figure, light)
        if figure.part is not None:
            _paint_figure(canvas, figure.part, light)
    return _exposed(canvas, light, rng)


def _draw_light(rng: np.random.Generator) -> Light:
    angle = np.deg2rad(rng.uniform(-150, -30))
    x, y = float(np.cos(angle)), float(np.sin(angle))
    slope, shadow, noise = rng.uniform((0.04, 0.25, 0.006), (0.16, 0.45, 0.018))
    return Light(x, y, float(slope), float(shadow), float(noise))


def _background(frame: tuple[int, ...], rng: np.random.Generator) -> Canvas:
    """`[H, W, 3]` two muted tones, mixed by a pattern, with clouds."""
    height, width = frame
    hue, saturation, value = rng.uniform((0, 0.06, 0.46), (1, 0.26, 0.80))
    dark = np.array(colorsys.hsv_to_rgb(hue, saturation, value * 0.84), np.float32)
    bright = np.array(colorsys.hsv_to_rgb((hue + 0.06) % 1, saturation * 0.8, value), np.float32)
    clouds = _clouds(height, width, 5, rng)
    share = 0.5 * _pattern(height, width, clouds, rng) + 0.5 * clouds
    return dark + share[..., None] * (bright - dark)


def _pattern(height: int, width: int, clouds: Field, rng: np.random.Generator) -> Field:
    """`[H, W]` shares of the bright tone: cloth, boards, tiles, waves or fine clouds."""
    scale = np.float32(max(height, width))
    y = (np.arange(height, dtype=np.float32) / scale)[:, None]
    x = (np.arange(width, dtype=np.float32) / scale)[None, :]
    count = np.float32(2 * np.pi * rng.integers(5, 11))
    match rng.integers(5):
        case 0:
            wave = np.sin(x * count * 5) + np.sin(y * count * 5)
        case 1:
            wave = 12 * np.abs(np.sin(y * (count / 2))) - 1 + np.sin(x * 9 + clouds * 20)
        case 2:
            wave = 20 * np.minimum(abs(np.sin(x * (count / 2))), abs(np.sin(y * (count / 2)))) - 1
        case 3:
            wave = 1.5 * np.sin(y * count + 2 * np.sin(x * (count / 3)) + 3 * clouds)
        case _:
            wave = 4 * _clouds(height, width, 40, rng) - 2
    return np.clip(np.float32(0.5) + wave * np.float32(0.5), 0, 1).astype(np.float32)


def _clouds(height: int, width: int, cells: int, rng: np.random.Generator) -> Field:
    """`[H, W]` smooth noise around 0.5, with about `cells` blobs along a side."""
    grid = Image.fromarray(rng.random((cells, cells), np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), np.float32)


def _cast_shadow(canvas: Canvas, figure: Figure, light: Light) -> None:
    """Darken what lies behind, away from the light, softly over the patch's rim."""
    reach = figure.radius * MARGIN
    shift = round(-light.y * reach / 3), round(-light.x * reach / 3)
    scene, patch = figure.window(canvas.shape[:2], shift)
    nearness = np.clip(0.5 - figure.distance[patch] / np.float32(2 * reach), 0, 1)
    canvas[scene] *= (1 - np.float32(light.shadow) * nearness * nearness * 2)[..., None].clip(0, 1)


def _paint_figure(canvas: Canvas, figure: Figure, light: Light) -> None:
    scene, patch = figure.window(canvas.shape[:2])
    distance = figure.distance[patch]
    opacity = np.clip(np.float32(0.5) - distance, 0, 1)[..., None]
    canvas[scene] += opacity * (_surface(figure, patch, distance, light) - canvas[scene])


def _surface(
    figure: Figure, patch: tuple[slice, slice], distance: Field, light: Light
) -> NDArray[np.float32]:
    """`[h, w, 3]` colours of a figure's patch: texture, shading towards the light, darker rim."""
    tones: tuple[Tone, Tone] = figure.tones
    u, v = figure.u[patch], figure.v[patch]
    second = texture_share(figure.texture, u, v, figure.waves, figure.radius)
    colour = tones[0] if second is None else tones[0] + second[..., None] * (tones[1] - tones[0])
    half = figure.distance.shape[0] // 2
    axis = np.arange(-half, half + 1, dtype=np.float32) / np.float32(figure.radius)
    towards = light.y * axis[patch[0], None] + light.x * axis[None, patch[1]]
    rim = max(1.2, 0.05 * figure.radius)
    edge = np.clip(1 + distance / np.float32(rim), 0, 1)
    return colour * ((1 + np.float32(0.10) * towards) * (1 - np.float32(0.35) * edge))[..., None]


def _exposed(canvas: Canvas, light: Light, rng: np.random.Generator) -> NDArray[np.uint8]:
    """`[H, W, 3]` uint8 after the light's gradient and the sensor's noise."""
    height, width = canvas.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    canvas *= (1 + np.float32(light.slope) * (light.x * x + light.y * y))[..., None]
    canvas += np.float32(light.noise) * rng.standard_normal(canvas.shape, np.float32)
    return (np.clip(canvas, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)

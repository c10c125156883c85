"""Scenes: procedural pictures with exact masks, concept names, true phrases and oracle priors.

They need no download, no labels and no teacher, and yet hold what makes regions hard: texture,
occlusion, many scales, parts on wholes, light and noise. Every scene is a pure function of
(seed, split, number).
"""

from datamodules.scenes.annotation import make_sample
from datamodules.scenes.appearance import CONCEPTS
from datamodules.scenes.folder import PRIOR_KIND, make_scenes

__all__ = ["CONCEPTS", "PRIOR_KIND", "make_sample", "make_scenes"]

"""From YAML files to a validated profile, by name or by path."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import tap_platform
from tap_platform.config.explain import explain
from tap_platform.config.load import read_tree
from tap_platform.config.profile import KubernetesProfile, LocalProfile, Profile, RayProfile

PLACES: dict[str, type[LocalProfile | RayProfile | KubernetesProfile]] = {
    "local": LocalProfile,
    "ray": RayProfile,
    "kubernetes": KubernetesProfile,
}


def profile_files() -> dict[str, Path]:
    """The profiles that come with the platform, by name."""
    package = Path(tap_platform.__file__).parent
    folders = (package.parent / "cluster" / "profiles", package / "cluster" / "profiles")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def load_profile(name: str) -> tuple[str, Profile]:
    """Read a profile, following `extends:`.

    Args:
        name: Of a profile that comes with the platform, or the path of a YAML file.

    Returns:
        Its name, which is that of its file, and the profile.

    Raises:
        ValueError: if there is none, or it does not validate; the message names file and key.
    """
    known = profile_files()
    path = known.get(name) or Path(name)
    if not path.is_file() and path.suffix not in (".yaml", ".yml"):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}."
        raise ValueError(f"there is no profile {name!r}: {hint} The path of a YAML file does too.")
    return path.stem, validate_profile(read_tree(path), where=str(path))


def validate_profile(tree: Mapping[str, Any], where: str) -> Profile:
    """Validate a plain tree; `where` names it in error messages.

    Raises:
        ValueError: with one line for every fault.
    """
    place = tree.get("place", "local")
    if not isinstance(place, str) or place not in PLACES:
        raise ValueError(f"{where}: place: no kind {place!r}: choose one of {', '.join(PLACES)}")
    try:
        return PLACES[place].model_validate(tree)
    except ValidationError as error:
        raise ValueError(explain(error, PLACES[place], where)) from None

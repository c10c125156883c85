"""Sentences that a name is put into before a text encoder reads it."""

from __future__ import annotations

from collections.abc import Sequence

TEMPLATE_SETS = {
    "tap": ("a {}",),
    "photo": ("a photo of a {}",),
}
"""`tap` is what the released concept files were made with; the paper also names `photo`."""
IMAGENET = "imagenet"
"""The eighty templates that CLIP's authors wrote for ImageNet, as open_clip ships them."""

PLACE = "{}"


def find_templates(given: Sequence[str]) -> tuple[str, ...]:
    """Templates from names of sets and from sentences.

    Args:
        given: each the name of a set (`tap`, `photo`, `imagenet`) or a sentence with one `{}`.

    Raises:
        ValueError: if one is neither, or none is given.
    """
    if not given:
        raise ValueError("no template: give a sentence with {} for the name, such as 'a {}'")
    return tuple(sentence for entry in given for sentence in _expand(entry))


def _expand(entry: str) -> tuple[str, ...]:
    if entry in TEMPLATE_SETS:
        return TEMPLATE_SETS[entry]
    if entry == IMAGENET:
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return tuple(template(PLACE) for template in OPENAI_IMAGENET_TEMPLATES)
    if entry.count(PLACE) != 1:
        raise ValueError(
            f"the template {entry!r} is no set ({', '.join([*TEMPLATE_SETS, IMAGENET])}) and has"
            " not one {} for the name"
        )
    return (entry,)

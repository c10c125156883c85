"""Weights of another model, brought into this one by the names of their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isqrt

from torch import Tensor

from tap_platform.models.image_encoder import resize_positions
from tap_platform.models.released import POSITIONS, State
from tap_platform.models.tap import Tap

NAMES_SHOWN = 10
WORDS = ("text_decoder.transformer.tok_embeddings.", "text_decoder.transformer.text_proj.")


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors, each in the order of where it comes from."""

    loaded: tuple[str, ...]
    """Those of the model that were found."""
    left_out: tuple[str, ...]
    """Those found that the model does not have, or that it was told to skip."""
    new: tuple[str, ...]
    """Those of the model that stay as they were made."""

    def as_dict(self) -> dict[str, list[str]]:
        """A value for JSON."""
        return {kind: list(names) for kind, names in asdict(self).items()}


def renamed(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> State:
    """Change how names of tensors begin; the longest beginning that fits is replaced.

    Raises:
        ValueError: if a beginning fits no name, or two tensors would get the same one.
    """
    _refuse_idle("prefixes", prefixes, state)
    origin: dict[str, str] = {}
    for name in state:
        fitting = max((p for p in prefixes if name.startswith(p)), key=len, default=None)
        new = name if fitting is None else prefixes[fitting] + name.removeprefix(fitting)
        if new in origin:
            raise ValueError(
                f"prefixes give the name {new} to both {origin[new]} and {name}: change them, so"
                " that every tensor has its own"
            )
        origin[new] = name
    return {new: state[name] for new, name in origin.items()}


def fit_weights(
    state: Mapping[str, Tensor], model: Tap, skip: Sequence[str] = ()
) -> tuple[State, LoadReport]:
    """Choose the tensors that a model takes over; the model itself stays as it is.

    Args:
        state: tensors with the model's names, of any floating type. A position table of another
            image size is resized.
        model: the model; only its names, shapes and types matter, so that it may lie on `meta`.
        skip: beginnings of names that are not taken over.

    Returns:
        The tensors in the types of the model, and what became of all of them.

    Raises:
        ValueError: if no name fits, nothing has a name that `skip` begins, a tensor has another
            shape than the model's, or numbers that are not finite.
    """
    expected = model.state_dict()
    _refuse_idle("skip", skip, {**state, **expected})
    taken = {n: t for n, t in state.items() if n in expected and not n.startswith(tuple(skip))}
    if not taken:
        raise ValueError(_nothing_fits(state, expected, skip))
    if POSITIONS in taken:
        taken[POSITIONS] = _fit_positions(taken[POSITIONS], model)
    _check_shapes(taken, expected)
    _check_finite(taken)
    report = LoadReport(
        loaded=tuple(taken),
        left_out=tuple(name for name in state if name not in taken),
        new=tuple(name for name in expected if name not in taken),
    )
    return {name: tensor.to(expected[name].dtype) for name, tensor in taken.items()}, report


def _refuse_idle(key: str, beginnings: Iterable[str], names: Iterable[str]) -> None:
    """Refuse a beginning that no name has: it is mistyped, and would do nothing unseen."""
    names = list(names)
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in names):
            tops = dict.fromkeys(name.partition(".")[0] + "." for name in names)
            raise ValueError(
                f"{key}: no tensor has a name that begins with {beginning!r}; they begin with"
                f" {', '.join(list(tops)[:NAMES_SHOWN])}"
            )


def _fit_positions(table: Tensor, model: Tap) -> Tensor:
    """Resize the table of a square grid [N, C]; anything else stays, and has the wrong shape."""
    if table.ndim != 2 or isqrt(len(table)) ** 2 != len(table):
        return table
    return resize_positions(table, (model.config.grid_size, model.config.grid_size))


def _nothing_fits(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], skip: Sequence[str]
) -> str:
    names = ", ".join(list(state)[:3]) or "none"
    skipped = f" beside what is skipped ({', '.join(skip)})" if skip else ""
    return (
        f"none of its {len(state)} tensors ({names}, ...) has the name of one of the model's"
        f" ({', '.join(list(expected)[:3])}, ...){skipped}: map their beginnings with"
        ' init_from.prefixes, such as {"module.": ""}'
    )


def _check_shapes(taken: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    wrong = {n: t for n, t in taken.items() if t.shape != expected[n].shape}
    if not wrong:
        return
    faults = [
        f"{name} is {list(tensor.shape)}, the model has {list(expected[name].shape)}"
        for name, tensor in wrong.items()
    ]
    hint = "give the model the sizes of these weights (model:), or take others"
    if any(n.startswith(WORDS) and len(t) != len(expected[n]) for n, t in wrong.items()):
        hint += (
            "; the text decoder has another number of word pieces, its tokenizer or vocabulary"
            " differs: keep its model.vocab_size and tokenizer, or start the text decoder anew with"
            " init_from: {source: ..., skip: [text_decoder.]}"
        )
    raise ValueError(f"{len(wrong)} tensors have other shapes:{_listed(faults)}\n{hint}")


def _check_finite(taken: Mapping[str, Tensor]) -> None:
    broken = [name for name, tensor in taken.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(
            f"{len(broken)} tensors hold numbers that are not finite:{_listed(broken)}\n"
            "take an earlier checkpoint, or other weights"
        )


def _listed(lines: Sequence[str]) -> str:
    """The first lines, one below the other, and how many more there are."""
    shown = list(lines[:NAMES_SHOWN])
    if len(lines) > NAMES_SHOWN:
        shown.append(f"and {len(lines) - NAMES_SHOWN} more")
    return "".join(f"\n  {line}" for line in shown)

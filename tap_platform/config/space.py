"""What a sweep varies: one dimension for each dotted key of the job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from tap_platform.config.base import Section

KINDS = ("uniform", "log_uniform", "int", "choice", "grid")


def _number_if_like(value: Any) -> Any:
    """YAML reads `1e-3` as text, and only `1.0e-3` as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _numbers_if_like(values: Any) -> Any:
    return tuple(map(_number_if_like, values)) if isinstance(values, list | tuple) else values


Values = Annotated[tuple[Any, ...], BeforeValidator(_numbers_if_like)]


class Dimension(Section):
    """The values that one key may take: exactly one of the five kinds."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    uniform: tuple[float, float] | None = None
    """`[least, most]`: any number between."""
    log_uniform: tuple[float, float] | None = None
    """`[least, most]`, above 0: any number between, every power of ten equally likely."""
    whole: tuple[int, int] | None = Field(None, alias="int")
    """`[least, most]`: a whole number, both ends included."""
    step: int = Field(1, gt=0)
    """Of `int`: between two of its numbers."""
    choice: Values | None = None
    """One of these."""
    grid: Values | None = None
    """Each of these, with each value of every other grid."""
    when: dict[str, Values] = Field(default_factory=dict)
    """Keys that stand above in the space, and the values of them for which this key is varied; else
    the base's value stays."""

    @property
    def kind(self) -> str:
        """Which of the five."""
        return next(name for name in KINDS if self._given(name) is not None)

    @property
    def listed(self) -> tuple[Any, ...] | None:
        """All values, of a dimension that has few: choices, grids and whole numbers."""
        if self.whole is not None:
            return tuple(range(self.whole[0], self.whole[1] + 1, self.step))
        return self.choice if self.choice is not None else self.grid

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Values that, if all of them do, the others are taken to do as well."""
        if self.whole is not None:
            whole = self.listed or ()
            return tuple(dict.fromkeys((whole[0], whole[-1])))
        return self.uniform or self.log_uniform or self.listed or ()

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the key is varied beside these values."""
        return all(key in values and values[key] in wanted for key, wanted in self.when.items())

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        given = [name for name in KINDS if self._given(name) is not None]
        if len(given) != 1:
            told = " and ".join(given) or "none"
            raise ValueError(f"give one of {', '.join(KINDS)}; there is {told}")
        if self.step != 1 and self.whole is None:
            raise ValueError("step goes with int")
        for bounds in (self.uniform, self.log_uniform, self.whole):
            if bounds is not None and bounds[0] >= bounds[1]:
                raise ValueError(f"the least, {bounds[0]}, is not below the most, {bounds[1]}")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform begins above 0, not at {self.log_uniform[0]}")
        self._check_list()
        return self

    def _check_list(self) -> None:
        listed = self.choice if self.choice is not None else self.grid
        if listed is None:
            return
        if not listed:
            raise ValueError("there is nothing to choose from")
        if any(value in listed[:place] for place, value in enumerate(listed)):
            raise ValueError(f"{list(listed)} holds a value twice")

    def _given(self, kind: str) -> Any:
        return self.whole if kind == "int" else getattr(self, kind)

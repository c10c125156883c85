"""What every config section shares: strict keys, help from docstrings, exact JSON."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, field_validator

from tap_platform.config.secrets import refuse_secrets


class Section(BaseModel):
    """A part of the config tree: immutable, without unknown keys, its field docstrings its help."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    located: ClassVar[tuple[str, ...]] = ()
    """Fields that hold a path, which is made absolute when a job file is read."""

    _no_secrets = field_validator("*", mode="after")(refuse_secrets)

    def replaced(self, **changes: Any) -> Any:
        """A validated copy of this section with some fields changed."""
        return type(self).model_validate({**self.model_dump(), **changes})

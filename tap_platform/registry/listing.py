"""The registry for people: a table of models and versions."""

from __future__ import annotations

from rich.table import Table

from tap_platform.registry.versions import CHAMPION, CHECKPOINT, DIGEST, RUN, Version, registry_at


def registry_table(
    model: str | None = None, store: str | None = None, storage: str = "runs"
) -> tuple[Table, int]:
    """All versions of a model, or of all, the newest first; and how many there are.

    Args:
        model: The model; None: all.
        store: MLflow's server or database; None: the database beside the runs.
        storage: The folder of all projects.

    Raises:
        ValueError: There is no such model, or the store refuses.
    """
    with registry_at(store, storage) as registry:
        known = registry.models()
        if model is not None and model not in known:
            there = ", ".join(known) or "none"
            raise ValueError(f"there is no model {model!r} in {registry.uri}: there are {there}")
        names = known if model is None else [model]
        versions = [each for name in names for each in registry.versions(name)]
    heads = ("model", "version", "aliases", "run", "step", "measured", "sha256", "checkpoint")
    table = Table(*heads)
    for each in versions:
        table.add_row(*_row(each))
    return table, len(versions)


def _row(version: Version) -> list[str]:
    aliases = " ".join(
        f"[bold green]{alias}[/]" if alias == CHAMPION else alias for alias in version.aliases
    )
    measure, value = (version.tags.get(f"{CHAMPION}.{key}", "") for key in ("measure", "value"))
    return [
        version.model,
        version.number,
        aliases,
        version.tags[RUN],
        str(version.step),
        f"{measure} {float(value):.4g}" if value else "",
        version.tags[DIGEST][:12],
        _place(version),
    ]


def _place(version: Version) -> str:
    try:
        version.check_is_there()
    except (ValueError, OSError):
        return f"[red]gone or changed:[/] {version.tags[CHECKPOINT]}"
    return version.tags[CHECKPOINT]

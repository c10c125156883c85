"""Versions of models: which checkpoint each is, of which run, and whether it is still there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.storage import Location, location, read_bytes
from tap_platform.runs.checkpoint_manifest import COMMITTED, CorruptCheckpointError, read_manifest
from tap_platform.runs.directory import RunDirectory, local_path
from tap_platform.runs.files import locked
from tap_platform.runs.tracking.mlflow_store import advice, open_store, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

CANDIDATE = "candidate"
CHAMPION = "champion"
RUN = "tap.run"
DIRECTORY = "tap.directory"
STEP = "tap.step"
CHECKPOINT = "tap.checkpoint"
DIGEST = "tap.checkpoint.sha256"


@dataclass(frozen=True)
class Version:
    """One version of a model."""

    model: str
    number: str
    """Of the version, from `1`."""
    aliases: tuple[str, ...]
    """Such as `candidate` and `champion`."""
    tags: Mapping[str, str]
    mlflow_run: str | None
    """MLflow's id of the run; None for a run that MLflow does not track."""

    @property
    def run(self) -> RunDirectory:
        """The run that wrote the checkpoint; its directory may be gone."""
        return RunDirectory(Path(self.tags[DIRECTORY]))

    @property
    def step(self) -> int:
        """Optimizer steps of the checkpoint."""
        return int(self.tags[STEP])

    @property
    def checkpoint(self) -> Location:
        """The checkpoint's folder."""
        return location(self.tags[CHECKPOINT])

    @property
    def title(self) -> str:
        """For people: model, version, run and step."""
        return f"{self.model} version {self.number} ({self.tags[RUN]}, step {self.step})"

    def check_is_there(self) -> None:
        """Make sure that the checkpoint is what was registered, by its list of files.

        Raises:
            ValueError: It is gone or another.
            OSError: The store is down.
        """
        try:
            digest = digest_of(self.checkpoint)
        except CorruptCheckpointError as error:
            raise ValueError(f"{self.title}: its checkpoint is gone or broken: {error}") from None
        if digest != self.tags[DIGEST]:
            raise ValueError(
                f"{self.title}: {self.checkpoint} holds another checkpoint than was registered:"
                " register it as a version of its own"
            )


class Registry:
    """MLflow's registry, in the database beside the runs or at a server."""

    def __init__(self, client: MlflowClient, uri: str, place: Path) -> None:
        self.client = client
        self.uri = uri
        self._place = place

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others of this storage from writing: what was judged stays so until it is told."""
        with locked(self._place / ".registry.lock") if self._place.is_dir() else nullcontext():
            yield

    @property
    def is_server(self) -> bool:
        """Whether others than this computer's users have a say."""
        return self.uri.startswith(("http://", "https://"))

    def models(self) -> list[str]:
        """The names of all models, in order."""
        found: list[str] = []
        token = None
        while True:
            page = self.client.search_registered_models(page_token=token)
            found += [model.name for model in page]
            token = page.token
            if not token:
                return sorted(found)

    def versions(self, model: str) -> list[Version]:
        """The versions of a model that are checkpoints of ours, the newest first."""
        aliases = self.aliases(model)
        found: list[Any] = []
        token = None
        quote = '"' if "'" in model else "'"
        while True:
            wanted = f"name={quote}{model}{quote}"
            page = self.client.search_model_versions(wanted, page_token=token)
            found += page
            token = page.token
            if not token:
                break
        ours = [each for each in found if CHECKPOINT in each.tags]
        ours.sort(key=lambda each: -int(each.version))
        return [_version(each, aliases) for each in ours]

    def version(self, model: str, name: str) -> Version:
        """A version by its number or an alias.

        Raises:
            ValueError: There is none; the message tells which there are.
        """
        known = self.versions(model) if model in self.models() else []
        for each in known:
            if name in (each.number, *each.aliases):
                return each
        if not known:
            models = ", ".join(self.models()) or "none"
            raise ValueError(f"there is no model {model!r} in {self.uri}: there are {models}")
        told = ", ".join(" ".join([each.number, *each.aliases]) for each in known)
        raise ValueError(f"{model} has no version {name!r}: there are {told}")

    def aliases(self, model: str) -> dict[str, str]:
        """The version that each alias of a model names."""
        return {k: str(v) for k, v in self.client.get_registered_model(model).aliases.items()}

    def set_tags(self, version: Version, tags: Mapping[str, str]) -> None:
        """Label a version."""
        for key, text in tags.items():
            self.client.set_model_version_tag(version.model, version.number, key, text)

    def replace_tags(self, version: Version, prefix: str, tags: Mapping[str, str]) -> None:
        """Label a version; what else it has under a prefix goes."""
        for key in version.tags.keys() - tags.keys():
            if key.startswith(prefix):
                self.client.delete_model_version_tag(version.model, version.number, key)
        self.set_tags(version, tags)


@contextmanager
def registry_at(uri: str | None, storage: str | Path) -> Iterator[Registry]:
    """The registry of a store; what is wrong with it is told to people.

    Args:
        uri: Server or database; None for the database beside the runs.
        storage: The folder of all projects.

    Raises:
        ValueError: The store does not answer, refuses, or is broken.
    """
    place = local_path(storage)
    if uri is None and not place.is_dir():
        raise ValueError(f"there is no folder {place}: name the one of the runs, by --storage")
    where = store_uri(uri, place)
    try:
        yield Registry(open_store(uri, place), where, place)
    except (ValueError, OSError) as error:
        if told := advice(error, where):
            raise ValueError(told) from error
        raise
    except Exception as error:
        if not type(error).__module__.startswith(("mlflow", "sqlalchemy", "requests")):
            raise
        raise ValueError(advice(error, where) or f"{where}: {error}") from error


def digest_of(checkpoint: Location) -> str:
    """The SHA-256 of a checkpoint: of its list of files, which holds theirs.

    Raises:
        CorruptCheckpointError: It is no checkpoint.
        OSError: The store is down.
    """
    read_manifest(checkpoint)  # which makes sure that the mark is that of the list
    return read_bytes(checkpoint / COMMITTED).decode()


def _version(found: Any, aliases: Mapping[str, str]) -> Version:
    number = str(found.version)
    return Version(
        model=found.name,
        number=number,
        aliases=tuple(sorted(alias for alias, of in aliases.items() if of == number)),
        tags=dict(found.tags),
        mlflow_run=found.run_id or None,
    )

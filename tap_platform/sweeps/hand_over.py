"""A sweep handed to a place: its driver runs there, beside the workers of its trials."""

from __future__ import annotations

import getpass
import json
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import click
import yaml

from tap_platform.config.job import JobConfig
from tap_platform.config.load import merge
from tap_platform.config.profile import Profile
from tap_platform.config.sweep import SweepConfig, load_sweep, validate_sweep
from tap_platform.estimate.nodes import cpus_of_worker, nodes_for
from tap_platform.places.code_package import pack_code
from tap_platform.places.find import find_profile, place_of
from tap_platform.places.place import Place, Submission
from tap_platform.places.resolve import resolve_job
from tap_platform.places.submit import hand_over
from tap_platform.sweeps.prices import prices_of
from tap_platform.sweeps.room import check_population
from tap_platform.sweeps.suggest import trials_of
from tap_platform.sweeps.trial_jobs import check_jobs, sample_jobs

SPEC, PROFILE = "sweep.json", "profile.json"
MOST_AT_ONCE = 64
"""Trials that nodes are asked for at once, where the sweep does not say."""


def submit_sweep(
    spec: Path, overrides: Sequence[str], on: str, name: str | None, *, with_code: bool
) -> None:
    """Submit the sweep of a file; `tap ps`, `tap logs` and `tap stop` see to it by its name.

    Args:
        spec: the file.
        overrides: `key.path=value`, laid over it.
        on: a profile's name or path, or the address of a Ray cluster.
        name: the sweep's, before the file's.
        with_code: whether the caller's code comes along.

    Raises:
        ValueError: if the sweep or the place refuses.
    """
    place_name, profile = find_profile(on)
    named = [*overrides, *([f"name={name}"] if name else [])]
    config = at_place(load_sweep(spec, named, on if profile else None), profile)
    place = place_of(place_name, profile)
    hand_over(make_submission(config, place, profile, with_code=with_code), place, profile)
    click.echo(f"{config.name} is on {place.name}; follow it with: tap logs {config.name} -f")


def at_place(config: SweepConfig, profile: Profile | None) -> SweepConfig:
    """The sweep with the place's storage, tracking server and mirror, and room for its trials.

    Raises:
        ValueError: if a trial finds no room there.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "base.yaml"
        path.write_text(yaml.safe_dump(config.base))
        job = resolve_job(path, (), profile)
    of_place = json.loads(job.model_dump_json(include={"storage", "mirror", "tracking"}))
    tree = config.model_dump(mode="json", by_alias=True)
    tree |= {
        "base": merge(config.base, of_place),
        "folder": str(PurePosixPath(job.storage).parent),
    }
    there = validate_sweep(tree, config.name)
    together = there.at_once or _room(there, profile)
    if together is not None:
        check_population(there, trials_of(there), together)
    return there.model_copy(update={"at_once": together})


def make_submission(
    config: SweepConfig, place: Place, profile: Profile | None, *, with_code: bool
) -> Submission:
    """Everything that the place is handed.

    Raises:
        ValueError: if the sweep is refused, or its trials find no room.
    """
    base = check_jobs(config)
    prices_of(config, base)
    together = _side_by_side(_largest(config), config.at_once or 1)
    if profile is not None:
        nodes_for(together, profile)
    files = {}
    if profile is not None:  # its prices count there too, where the caller's file is not
        files[PROFILE] = profile.model_dump_json(indent=2, by_alias=True, exclude_unset=True)
        config = config.model_copy(update={"place": f"{place.files}/{PROFILE}"})
    return Submission(
        run=config.name,
        project=base.project,
        kind="sweep",
        command=("tap", "sweep", f"{place.files}/{SPEC}", "--run", config.name),
        files={SPEC: config.model_dump_json(indent=2, by_alias=True), **files},
        job=together,
        code=pack_code(Path.cwd()) if with_code else None,
        by=f"{getpass.getuser()}@{socket.gethostname()}",
    )


def _room(config: SweepConfig, profile: Profile | None) -> int | None:
    """Trials for which the profile has nodes; a cluster that is there tells by itself."""
    if profile is None or profile.place != "kubernetes":
        return None
    job, fits = _largest(config), 1
    for number in range(2, min(trials_of(config) or MOST_AT_ONCE, MOST_AT_ONCE) + 1):
        try:
            nodes_for(_side_by_side(job, number), profile)
        except ValueError:
            break
        fits = number
    return fits


def _largest(config: SweepConfig) -> JobConfig:
    """The job of the trial that asks for most: nodes for less would keep it waiting for ever."""
    return max(sample_jobs(config), key=lambda job: job.scale.most_workers * cpus_of_worker(job))


def _side_by_side(job: JobConfig, trials: int) -> JobConfig:
    """A job with the workers of several: what nodes are chosen by, and nobody trains."""
    workers = job.scale.most_workers * trials
    return job.model_copy(update={"scale": job.scale.model_copy(update={"workers": workers})})

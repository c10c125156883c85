"""Storages as teams leave them after months: projects, people, sweeps, failures, pictures.

Real directories with the files that runs and sweeps write; only what was trained is made up. The
same seed makes the same storage.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PEOPLE = {
    "ada": "vision",
    "grace": "vision",
    "alan": "speech",
    "barbara": "robotics",
    "edsger": "robotics",
    "frances": "vision",
}
PROJECTS = ("tap", "warehouse", "street-scenes", "medical")
RECIPES = ("tap_pretrain", "tap_caption")
FAULTS = (
    "worker 3 (rank 3 on node-17) failed: CUDA out of memory. Tried to allocate 2.10 GiB",
    "worker 1 is gone: the node node-04 died\nits whole log: logs/attempt-1/rank-1.log",
    "training has diverged: up to step 840 steps in a row had no finite loss",
    "cannot write checkpoints/step-900: No space left on device",
    "6.1 % of the samples are bad, and data.max_bad_fraction is 1 %",
    "the loader of shard 12 raised KeyError: 'segmentation'",
)
SUITES = {
    "instances": ("LVIS masks from detector boxes", "LVIS v1 val, ViTDet-H boxes", 0.40),
    "captions": ("captions of regions", "Visual Genome test, true boxes", 1.45),
}
_MEASURES = {"instances": ("ap", "apr", "apc", "apf"), "captions": ("cider", "meteor")}


@dataclass
class Maker:
    """Writes runs into a storage."""

    storage: Path
    now: float
    """The present, seconds since 1970."""
    records: int = 40
    """Measurements of a run."""
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def run(
        self,
        project: str,
        name: str,
        *,
        state: str = "finished",
        begin: float,
        hours: float,
        steps: int = 2000,
        done: float = 1.0,
        link: dict[str, str] | None = None,
        owner: str | None = None,
        score: float | None = None,
        message: str = "",
    ) -> Path:
        """A run that began at a time and lasted so long; `done` is the share of its steps."""
        folder = self.storage / project / name
        folder.mkdir(parents=True)
        owner = owner or self.chance.choice(tuple(PEOPLE))
        end, gpus = begin + 3600 * hours, self.chance.choice((4, 8, 8, 16))
        step = max(1, round(steps * done))
        self._json(folder / "status.json", self._status(state, begin, end, step, steps, message))
        tags = {"owner": f"{owner}@cluster", "team": PEOPLE[owner]}
        recipe = {"type": self.chance.choice(RECIPES)}
        self._json(folder / "config.json", {"recipe": recipe, "tracking": {"tags": tags}})
        self._json(folder / "provenance.json", {"owner": f"{owner}@login-1"})
        if link:
            self._json(folder / "sweep.json", link)
        metrics, first = self._metrics(begin, end, step, score)
        self._lines(folder / "metrics.jsonl", metrics)
        events = self._events(state, begin, first, end, gpus, step, message)
        self._lines(folder / "events.jsonl", events)
        return folder

    def evaluate(self, folder: Path, step: int, level: float) -> None:
        """What `tap eval` adds: metrics of suites, and what they are of."""
        time = _iso(self.now - 3600)
        events, metrics = [], []
        for suite, (protocol, data, usual) in SUITES.items():
            told = {"suite": suite, "protocol": protocol, "data": data}
            events.append({"time": time, "kind": "evaluated", "attempt": 1, "rank": None, **told})
            values = {name: usual * level / (1 + k) for k, name in enumerate(_MEASURES[suite])}
            metrics.append(_record(time, step, f"eval_{suite}", values))
        self._lines(folder / "events.jsonl", events)
        self._lines(folder / "metrics.jsonl", metrics)

    def pictures(self, folder: Path, steps: tuple[int, ...]) -> None:
        """Predictions that become better: a disc, and what is found of it."""
        from PIL import Image, ImageDraw

        (folder / "pictures").mkdir(exist_ok=True)
        for place, step in enumerate(steps, 1):
            picture = Image.new("RGB", (720, 240), (40, 60, 52))
            draw = ImageDraw.Draw(picture)
            for column in range(3):
                left = 240 * column + 40
                draw.ellipse((left, 40, left + 160, 200), fill=(214, 180, 70))
                off = 90 * (1 - place / len(steps)) * (1 - 0.3 * column)
                box = (left + off, 40 + off / 2, left + 160 + off / 3, 200 - off / 2)
                draw.ellipse(box, outline=(214, 51, 132), width=6)
            picture.save(folder / "pictures" / f"held-out-step-{step}.png")

    def sweep(self, project: str, name: str, trials: int, state: str, begin: float) -> None:
        """A sweep whose objective has its best at a learning rate of 1e-3."""
        folder = self.storage / project / "sweeps" / name
        folder.mkdir(parents=True)
        owner = self.chance.choice(tuple(PEOPLE))
        hours, now = 0.5, begin
        history: list[dict[str, Any]] = []
        for number in range(trials):
            is_open = state == "running" and number >= trials - 2
            self._trial(project, name, number, now, hours, owner, is_open, history)
            now += 1800 if not is_open else 0
        spec = _sweep_spec(name, project, self.storage, trials + 4 * (state == "running"))
        self._json(folder / "sweep.json", spec)
        end = self.now - 60 if state == "running" else now + 1800
        self._json(folder / "status.json", self._status(state, begin, end, trials, trials, ""))
        self._lines(folder / "trials.jsonl", history)
        started = {"time": _iso(begin), "kind": "started", "attempt": 1, "rank": None}
        self._lines(folder / "events.jsonl", [started])

    def _trial(
        self,
        project: str,
        sweep: str,
        number: int,
        begin: float,
        hours: float,
        owner: str,
        is_open: bool,
        history: list[dict[str, Any]],
    ) -> None:
        trial, chance = f"t{number:04}", self.chance
        values: dict[str, Any] = {
            "optimizer.lr": 10 ** chance.uniform(-4, -2),
            "recipe.objective.dice_weight": chance.uniform(1, 20),
            "recipe.objective.concept_loss": chance.choice(("kl", "feature")),
            "model.drop_path": chance.uniform(0, 0.3),
        }
        if values["recipe.objective.concept_loss"] == "kl":
            values["recipe.objective.temperature"] = chance.uniform(0.01, 0.2)
        best = 0.72 - 0.12 * abs(math.log10(values["optimizer.lr"]) + 3) + chance.gauss(0, 0.01)
        stopped = chance.random() < 0.5 and not is_open
        failed = chance.random() < 0.04 and not is_open
        state = (
            "running" if is_open else "failed" if failed else "stopped" if stopped else "finished"
        )
        last = 30 if stopped or is_open else 270
        own = {"trial": trial, "run": f"{sweep}-{trial}", "values": values, "exploit": None}
        reason = {"stopped": "its objective is not among the best third", "failed": FAULTS[0]}

        def add(state: str, what: str, at: float, step: int, value: float | None) -> None:
            told = reason.get(state, "") if what == "ended" else ""
            more = {"state": state, "what": what, "time": _iso(at), "reason": told}
            history.append({**own, **more, "objective": value, "step": step})

        add("pending", "suggested", begin, 0, None)
        add("running", "started", begin, 0, None)
        value, step = None, 0
        for step in (30, 90, 270):
            if step <= last:
                value = best - 0.25 * math.exp(-step / 80)
                add("running", "measured", begin + 3600 * hours * step / 270, step, value)
        step = min(step, last)
        if not is_open:
            add(state, "ended", begin + 3600 * hours * last / 270, step, value)
        run_state = {"stopped": "interrupted"}.get(state, state)
        self.run(
            project,
            f"{sweep}-{trial}",
            state=run_state,
            begin=begin if not is_open else self.now - 600,
            hours=0.16 if is_open else hours * last / 270,
            steps=270,
            done=last / 270,
            link={"sweep": sweep, "trial": trial},
            owner=owner,
            score=best,
            message=reason.get(state, ""),
        )

    def _metrics(
        self, begin: float, end: float, step: int, score: float | None
    ) -> tuple[list[dict[str, Any]], float]:
        """Records of training and looks at held-out images, and when the first step began."""
        first = begin + self.chance.uniform(0.02, 0.08) * (end - begin)
        records = min(self.records, step)
        pace, wait = (end - first) / step * 0.9, self.chance.uniform(0.01, 0.15)
        found = []
        for k in range(1, records + 1):
            share = k / records
            time, at = _iso(first + share * (end - first)), round(share * step)
            values = {
                "loss": 2.5 * math.exp(-2 * share) + 0.4 + self.chance.gauss(0, 0.02),
                "lr": 1e-3 * (1 - share),
                "speed/seconds_per_step": pace,
                "speed/data_wait_share": wait,
                "speed/images_per_second": 16 / pace,
            }
            found.append(_record(time, at, "train", values))
        quality = score if score is not None else self.chance.uniform(0.5, 0.72)
        values = {"box_iou": quality, "point_iou": quality - 0.1, "concept_top1": quality - 0.2}
        found.append(_record(_iso(end), step, "val", values))
        if score is None and self.chance.random() < 0.5:
            found.append(_record(_iso(end), step, "final", values))
        return found, first

    def _events(
        self,
        state: str,
        begin: float,
        first: float,
        end: float,
        gpus: int,
        step: int,
        message: str,
    ) -> list[dict[str, Any]]:
        def event(at: float, kind: str, attempt: int = 1, **more: Any) -> dict[str, Any]:
            return {"time": _iso(at), "kind": kind, "attempt": attempt, "rank": None, **more}

        price = {"price_per_hour": 2.9 * gpus, "currency": "USD"}
        told = [
            event(begin, "started", workers=gpus, strategy="zero2", **price),
            event(begin + 30, "training", workers=gpus, gpus=gpus, goes_on_from=None),
        ]
        middle = (first + end) / 2
        told.append(event(middle, "checkpoint", step=step // 2, seconds=4.0, stall_seconds=1.5))
        if self.chance.random() < 0.2:  # a worker was lost, and training went on
            origin = f"step-{step // 2}"
            more = {"workers": gpus, "gpus": gpus, "goes_on_from": origin}
            told.append(event(middle + 0.1 * (end - middle), "training", **more))
        if state in ("finished", "failed", "interrupted"):
            told.append(event(end, state, **({"reason": message} if message else {})))
        return told

    def _status(
        self, state: str, begin: float, end: float, step: int, steps: int, message: str
    ) -> dict[str, Any]:
        times = {"started": _iso(begin), "updated": _iso(end)}
        host = {"pid": 1, "process_started": 0.0, "host": "elsewhere", "parent": None}
        what = {"state": state, "step": step, "max_steps": steps, "attempt": 1, "world_size": 8}
        return {**what, **times, **host, "message": message}

    @staticmethod
    def _json(path: Path, value: Any) -> None:
        path.write_text(json.dumps(value, indent=2))

    @staticmethod
    def _lines(path: Path, records: list[dict[str, Any]]) -> None:
        with path.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)


def make_storage(
    storage: Path, runs: int, sweeps: int, now: float, trials: int = 8, records: int = 40
) -> None:
    """Runs and sweeps; a few go on, some failed, one of each kind is corrupt.

    Args:
        storage: made here.
        runs: run directories in all, those of trials among them.
        sweeps: with `trials` each, as long as runs suffice.
        now: the present, seconds since 1970.
        trials: of one sweep.
        records: measurements of one run.
    """
    maker = Maker(storage, now, records)
    chance, left = maker.chance, runs
    for number in range(sweeps):
        own = min(trials * 3 if number == 0 else trials, max(2, left - (sweeps - number - 1) * 2))
        state = "running" if number in (0, 1) else "finished"
        age = 1800 * (own - 2) + 900 if state == "running" else 3600 * chance.uniform(24, 24 * 90)
        maker.sweep(chance.choice(PROJECTS), f"lr-and-weights-{number:03}", own, state, now - age)
        left -= own
    for number in range(max(0, left)):
        _one_run(maker, number, now)
    _spoil(storage)


def _one_run(maker: Maker, number: int, now: float) -> None:
    chance = maker.chance
    state = chance.choices(("finished", "failed", "interrupted"), (80, 12, 8))[0]
    hours, age = chance.uniform(0.5, 40), chance.uniform(1, 24 * 90)
    done, message = 1.0, ""
    if number < 5:
        state, age, hours = "running", 0.0, chance.uniform(2, 30)
    if state != "finished":
        done = chance.uniform(0.1, 0.9)
    if state == "failed":
        message = f"{chance.choice(FAULTS)}\nstep 500 is in its last checkpoint"
        age = chance.uniform(1, 24 * 20)
    elif state == "interrupted":
        message = "stopped by a signal"
    if number == 5:  # goes on, as it says, and nobody has heard of it
        state, age = "running", 9.0
    begin = now - 3600 * (age + hours)
    name = f"{chance.choice(('base', 'large', 'huge'))}-{number:04}"
    folder = maker.run(
        chance.choice(PROJECTS),
        name,
        state=state,
        begin=begin,
        hours=hours - (0.01 if state == "running" else 0),
        steps=chance.choice((2_000, 20_000, 90_000)),
        done=done,
        message=message,
    )
    if state == "finished" and number % 5 == 0:
        maker.evaluate(folder, 2000, chance.uniform(0.6, 1.06))
    if number < 12:
        maker.pictures(folder, (500, 1000, 1500, 2000))


def _spoil(storage: Path) -> None:
    for number, text in enumerate(("", "{", "<script>alert(1)</script>")):
        folder = storage / PROJECTS[0] / f"corrupt-{number}"
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(text)
    folder = storage / PROJECTS[0] / "sweeps" / "corrupt"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("{")


def _sweep_spec(name: str, project: str, storage: Path, trials: int) -> dict[str, Any]:
    return {
        "name": name,
        "base": {"name": name, "project": project, "storage": str(storage)},
        "folder": ".",
        "space": {
            "optimizer.lr": {"log_uniform": [1e-4, 1e-2]},
            "recipe.objective.dice_weight": {"uniform": [1, 20]},
            "recipe.objective.concept_loss": {"choice": ["kl", "feature"]},
            "recipe.objective.temperature": {
                "uniform": [0.01, 0.2],
                "when": {"recipe.objective.concept_loss": ["kl"]},
            },
            "model.drop_path": {"uniform": [0, 0.3]},
        },
        "objective": {"metric": "val/box_iou", "mode": "max"},
        "search": {"type": "random"},
        "scheduler": {"type": "asha", "grace_steps": 30},
        "budget": {"trials": trials},
    }


def _record(time: str, step: int, kind: str, values: dict[str, float]) -> dict[str, Any]:
    return {"step": step, "kind": kind, "attempt": 1, "time": time, "values": values}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

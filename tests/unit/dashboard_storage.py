"""A storage for the dashboard's tests: a run of each kind, and sweeps of a few trials."""

from ledger_runs import BEGIN, append, event, iso, make_run, priced_run, train

from tap_platform.runs.files import write_json
from tap_platform.sweeps.directory import SweepDirectory

EVIL = "<script>alert('x')</script>"
SPACE = {
    "optimizer.lr": {"log_uniform": [1e-4, 1e-1]},
    "recipe.objective.concept_loss": {"choice": ["kl", "feature"]},
    "recipe.objective.temperature": {
        "uniform": [0.01, 0.2],
        "when": {"recipe.objective.concept_loss": ["kl"]},
    },
}


def spec(name, trials, **changes):
    return {
        "name": name,
        "base": {"name": name},
        "space": SPACE,
        "objective": {"metric": "val/box_iou", "mode": "max"},
        "scheduler": {"type": "asha", "grace_steps": 10},
        "budget": {"trials": trials},
        **changes,
    }


def trial_values(number):
    values = {"optimizer.lr": 10 ** (-4 + 0.2 * number)}
    values["recipe.objective.concept_loss"] = "kl" if number % 2 else "feature"
    if number % 2:
        values["recipe.objective.temperature"] = 0.01 + 0.019 * (7 * number % 10)
    return values


def make_sweep(storage, name="search", trials=4, over=None, *, runs=True, **changes):
    """A sweep whose later trials are better; the last of those that are over was stopped early."""
    over = trials if over is None else over
    sweep = SweepDirectory(storage / "tap" / "sweeps" / name)
    sweep.path.mkdir(parents=True)
    write_json(sweep.spec, spec(name, trials, **changes))
    ended = over == trials
    state = "finished" if ended else "running"
    status = {"state": state, "started": iso(0), "updated": iso(3600), "host": "elsewhere"}
    write_json(sweep.as_run.status, status)
    for number in range(min(trials, over + 1)):
        _trial(sweep, number, is_over=number < over, is_last=number == over - 1, runs=runs)
    return sweep


def _trial(sweep, number, *, is_over, is_last, runs):
    trial, run = f"t{number:04}", f"{sweep.name}-t{number:04}"
    base = {"trial": trial, "run": run, "values": trial_values(number)}
    base |= {"exploit": None, "reason": ""}

    def add(state, what, second, step, objective, reason=""):
        told = {"state": state, "what": what, "time": iso(second), "step": step}
        append(sweep.trials, {**base, **told, "objective": objective, "reason": reason})

    begin = 600 * number
    add("pending", "suggested", begin, 0, None)
    add("running", "started", begin, 0, None)
    add("running", "measured", begin + 60, 10, 0.3 + 0.01 * number)
    if is_over and not is_last:
        add("running", "measured", begin + 300, 30, 0.5 + 0.01 * number)
        add("finished", "ended", begin + 300, 30, 0.5 + 0.01 * number)
    elif is_over:
        add("stopped", "ended", begin + 100, 10, 0.3 + 0.01 * number, "not among the best third")
    if runs:
        state = "running" if not is_over else "interrupted" if is_last else "finished"
        config = {"recipe": {"type": "tap_pretrain"}}
        made = priced_run(
            sweep.runs.parent, run, state=state, start=begin, hours=0.1, config=config
        )
        write_json(made.path / "sweep.json", {"sweep": sweep.name, "trial": trial})


def make_storage(storage):
    """One run of every fate, one that says bad things, a sweep, and two corrupt directories."""
    priced_run(storage, "good", tags={"team": "vision"})
    make_run(
        storage,
        "broken",
        state="failed",
        step=50,
        message="worker 1 failed: CUDA out of memory\nits whole log: logs/attempt-1/rank-1.log",
        events=[event(0, "started"), event(100, "failed")],
    )
    make_run(
        storage,
        "going",
        state="running",
        step=50,
        updated=3500,
        events=[
            event(0, "started", price_per_hour=20, currency="EUR"),
            event(10, "training", workers=2, gpus=2),
        ],
        metrics=[train(3000, 50, pace=36.0)],
    )
    _evil_run(storage)
    make_sweep(storage)
    for name, text in (("torn", "{"), ("empty", "")):
        folder = storage / "tap" / name
        folder.mkdir()
        (folder / "status.json").write_text(text)
    return storage


def _evil_run(storage):
    """A directory that no `RunDirectory.create` would make, but anyone with a shell may."""
    run = make_run(
        storage,
        "harmless",
        project="bad",
        tags={"owner": EVIL, "team": EVIL},
        state="failed",
        message=EVIL,
        events=[event(0, "started"), event(100, "failed", reason=EVIL)],
        config={"recipe": {"type": EVIL}},
    )
    run.path.rename(run.path.with_name("<img src=x onerror=alert(1)>"))


def evaluate(run, suite="instances", protocol="LVIS masks from detector boxes", **values):
    """What `tap eval` adds to a run."""
    told = {"suite": suite, "protocol": protocol, "data": "LVIS v1 val"}
    append(run.events, event(200, "evaluated", **told))
    stamp = {"step": 100, "kind": f"eval_{suite}", "attempt": 1, "time": iso(200)}
    append(run.metrics, {**stamp, "values": values})


__all__ = ["BEGIN", "EVIL", "SPACE", "evaluate", "make_storage", "make_sweep"]

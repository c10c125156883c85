"""Ray Tune runs the trials: it starts their drivers, tells of results, and ends drivers."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import ProgressReporter
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import SearchAlgorithm
from ray.tune.stopper import Stopper

from tap_platform.sweeps.live_trial import TrialOrder
from tap_platform.sweeps.schedulers import OBJECTIVE, STEP
from tap_platform.sweeps.stage import Stage
from tap_platform.sweeps.trainable import ENDED, HOPELESS, REASON, TrialDriver

SETTINGS = {
    # What Ray Tune keeps for itself is never read: the sweep's own records are the truth.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
OWN_ENDING_SECONDS = 30.0


def run_trials(stage: Stage, folder: Path, retries: int, grace: float) -> None:
    """Run all trials that the stage has, until none is left or it is over.

    Args:
        stage: what decides.
        folder: for what Ray Tune writes.
        retries: how often a trial goes on whose driver died.
        grace: seconds that trials have to end.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # `Tuner` would pickle what decides, to restore it from; here the sweep's records do that.
    tune.run(
        TrialDriver,
        name=folder.name,
        storage_path=str(folder.parent),
        search_alg=_Trials(stage, retries),
        scheduler=_Results(stage, grace + OWN_ENDING_SECONDS),
        stop=_Ends(stage),
        max_failures=retries,
        raise_on_failed_trial=False,
        reuse_actors=False,
        progress_reporter=_Silent(),
        verbose=0,
    )
    stage.close()


class _Trials(SearchAlgorithm):
    """Hands Ray Tune the stage's next trial, under the sweep's own names."""

    def __init__(self, stage: Stage, retries: int) -> None:
        self._stage, self._retries = stage, retries
        self._spec: dict[str, Any] = {}

    def add_configurations(self, experiments: Any) -> None:
        """Keep where Ray Tune wants trials' files."""
        self._spec = experiments[0].spec

    def next_trial(self) -> Trial | None:
        """A trial, if there is one and room for it."""
        order = self._stage.next()
        return None if order is None else self._trial(order)

    def is_finished(self) -> bool:
        """Whether no trial will follow."""
        return self._finished or self._stage.is_complete

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Hear of a driver that died once too often."""
        if error and not self._stage.is_interrupted:
            self._stage.ended(trial_id, "failed", "its driver died again and again")

    def _trial(self, order: TrialOrder) -> Trial:
        return Trial(
            self._spec["run"],
            config={"order": order.model_dump_json()},
            trial_id=order.trial,
            storage=self._spec["storage"],
            experiment_tag=order.trial,
            placement_group_factory=PlacementGroupFactory([_beside_us()]),
            max_failures=self._retries,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        )


class _Results(FIFOScheduler):
    """Takes Ray Tune's results to the stage, and its verdicts back."""

    def __init__(self, stage: Stage, ending: float) -> None:
        super().__init__()
        self._stage, self._ending = stage, ending

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Let drivers end their workers also when the last trial ends; Ray Tune gives them 10 s."""
        inner = vars(tune_controller).get("_tune_controller", tune_controller)
        inner._actor_force_cleanup_timeout = self._ending

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """What becomes of a trial that was measured."""
        if OBJECTIVE not in result:
            return TrialScheduler.CONTINUE
        is_to_end = self._stage.measured(trial.trial_id, result[STEP], result[OBJECTIVE])
        return TrialScheduler.STOP if is_to_end else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Hear how a trial ended by itself."""
        if ENDED in result and not self._stage.is_interrupted:
            if result.get(HOPELESS):
                self._stage.despair(result[REASON])
            self._stage.ended(trial.trial_id, result[ENDED], result[REASON])


class _Silent(ProgressReporter):
    """The sweep tells how it goes; Ray Tune need not."""

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to prepare."""

    def should_report(self, trials: Any, done: bool = False) -> bool:
        """Never."""
        return False

    def report(self, trials: Any, done: bool, *sys_info: Any) -> None:
        """Nothing."""


class _Ends(Stopper):
    """Asks the stage whether all is over."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """No trial ends by this."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, for Ray Tune's own snapshots, which nobody reads."""
        return {}

    def stop_all(self) -> bool:
        """Whether all trials are to end now."""
        return bool(self._stage.is_over())


def _beside_us() -> dict[str, float]:
    """No CPU, on the node of the sweep's driver: a worker's node takes no driver with it."""
    return {"CPU": 0, f"node:{ray.util.get_node_ip_address()}": 0.001}

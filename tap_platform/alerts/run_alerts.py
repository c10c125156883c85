"""Sends alerts of a run, or of a sweep, from a thread beside it; what could not go out waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from pydantic import BaseModel, Field, ValidationError

from tap_platform.alerts.message import Alert, payload
from tap_platform.alerts.sweep_words import outcome
from tap_platform.alerts.watch import Memory, Told, Used, Watch
from tap_platform.alerts.webhook import Webhook, WebhookError
from tap_platform.config.alerts import AlertKind, AlertsConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import read_records, write_atomic
from tap_platform.runs.passes import BackgroundPasses
from tap_platform.runs.status import RunStatus, read_status
from tap_platform.runs.usage import Usage

FILE = "alerts.json"
MOST_WAITING = 50
"""Alerts that wait while the webhook is down; the oldest go then."""
Spent = Callable[[], Mapping[str, Used]]


class _State(BaseModel):
    """How far the alerts of a run are; kept in its directory, without the address."""

    offset: int = 0
    """Byte of the events to go on from."""
    memory: Memory = Memory()
    waiting: list[Alert] = Field(default_factory=list)
    """Those that were not sent yet."""


class RunAlerts(BackgroundPasses):
    """Follows the events, the status and the spending of a run."""

    def __init__(
        self,
        run: RunDirectory,
        config: AlertsConfig,
        webhook: Webhook,
        *,
        is_sweep: bool = False,
        spent: Spent | None = None,
    ) -> None:
        """Send nothing yet. What happened before alerts were ever asked for is passed over.

        Args:
            run: the run to follow; of a sweep, its folder as one.
            config: what to tell, and when.
            webhook: where to.
            is_sweep: whether it is a sweep: its end is told, and steps do not count.
            spent: how much of which budget is gone; by default what the run's own events tell, of
                the budgets in `config`.
        """
        super().__init__(run, "alerts", config.interval)
        self._config = config
        self._webhook = webhook
        self._is_sweep = is_sweep
        self._spent = spent or self._of_events
        self._usage = Usage()
        self._usage_offset = 0
        self._path = run.path / FILE
        self._state = self._begin()

    def _begin(self) -> _State:
        try:
            return _State.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            state = _State()
            watch = Watch(state.memory, is_sweep=self._is_sweep)
            for _ in self._new_events(state, watch):
                pass
            return state

    def _pass(self) -> None:
        watch = Watch(self._state.memory, is_sweep=self._is_sweep)
        before = self._state.model_dump_json()
        told = [*self._new_events(self._state, watch), *self._looks(watch)]
        wanted = [self._alert(*each) for each in told if each[0] in self._config.on]
        self._state.waiting = [*self._state.waiting, *wanted][-MOST_WAITING:]
        if self._state.model_dump_json() != before:
            self._save()
        self._send()

    def _send(self) -> None:
        """Send what waits. An alert that would always be refused must not hold others back."""
        refusal = None
        while self._state.waiting:
            try:
                self._webhook.post(payload(self._state.waiting[0]), self._pause)
            except WebhookError as error:
                if not error.is_final:
                    raise
                refusal = error
            self._state.waiting.pop(0)
            self._save()
        if refusal is not None:
            raise refusal

    def _pause(self, seconds: float) -> None:
        """Between two tries; the end of the run waits for its last alert no longer than it must."""
        if self._is_last:
            time.sleep(min(seconds, 2.0))
        else:
            self._stopping.wait(seconds)

    def _looks(self, watch: Watch) -> Iterator[Told]:
        """What no event tells."""
        now = time.time()
        if not self._is_sweep:
            status = self._status()
            minutes = self._config.stall_minutes
            patience = None if minutes is None else 60 * minutes
            if status is not None and not status.ended:
                yield from watch.progress(status.step, status.max_steps, now, patience)
        yield from watch.spending(self._spent(), self._config.budget.share, now)

    def _status(self) -> RunStatus | None:
        with suppress(OSError, ValueError):
            return read_status(self.run.status)
        return None

    def _of_events(self) -> dict[str, Used]:
        """How much of the config's budgets is gone."""
        budget, now = self._config.budget, time.time()
        start = -1
        while start != self._usage_offset:
            start = self._usage_offset
            events, self._usage_offset = read_records(self.run.events, start)
            self._usage.take(events)
        cost, currency = self._usage.cost(now)
        used = {
            "cost": (cost, budget.cost, currency),
            "GPU-hours": (self._usage.gpu_hours(now), budget.gpu_hours, ""),
            "hours": (self._usage.driver_hours(now), budget.hours, ""),
        }
        return {
            name: Used(value, limit, unit)
            for name, (value, limit, unit) in used.items()
            if limit is not None
        }

    def _new_events(self, state: _State, watch: Watch) -> Iterator[Told]:
        start = -1
        while start != state.offset:
            start = state.offset
            events, state.offset = read_records(self.run.events, start)
            for event in events:
                with suppress(KeyError, TypeError, ValueError):  # no event of ours
                    yield from watch.event(event)

    def _alert(self, kind: AlertKind, text: str, when: float) -> Alert:
        if kind == "sweep_done":
            text = outcome(self.run.path) or text
        return Alert(
            kind=kind,
            run=self.run.name,
            project=self.run.project,
            text=text,
            time=datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds"),
            where=str(self.run.path),
        )

    def _save(self) -> None:
        """A disk that is full may make an alert come twice; it does not keep it from going out."""
        with suppress(OSError):
            write_atomic(self._path, self._state.model_dump_json().encode(), durable=False)


@contextmanager
def alerted(
    run: RunDirectory,
    config: AlertsConfig,
    *,
    is_sweep: bool = False,
    spent: Spent | None = None,
) -> Iterator[None]:
    """Tell people of a run, or a sweep, while the block lasts; its end is told last.

    Nothing that is wrong with alerts ends the block: it is an event `alerts_failed`.

    Args:
        run: as of `RunAlerts`, as are the others.
        config: what to tell, and from which variable the address comes.
        is_sweep: whether it is a sweep.
        spent: how much of which budget is gone.
    """
    alerts = None
    try:
        webhook = Webhook.of_environment(config.webhook_from)
        if webhook is not None:
            alerts = RunAlerts(run, config, webhook, is_sweep=is_sweep, spent=spent)
            alerts.start()
    except (ValueError, OSError) as error:
        with suppress(OSError):
            EventLog(run.events, attempt=run.attempt).record("alerts_failed", error=str(error))
    try:
        yield
    finally:
        if alerts is not None:
            alerts.stop(config.final_timeout)

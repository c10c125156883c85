"""Run an iterator ahead of its consumer, in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_END = object()


class Prefetch(Generic[T]):
    """Yield what `source` yields, made ahead of time by a thread that starts at once.

    What the source raises is raised to the consumer. `close` ends the thread and the source.
    """

    def __init__(self, source: Iterable[T], depth: int) -> None:
        """Start the thread.

        Args:
            source: iterated over once, in the thread.
            depth: items made ahead, at most.
        """
        self._items: queue.Queue[object] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._fill, args=(source,), name="prefetch", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._items.get()
            if item is _END:
                # Whoever asks again, as Lightning does, finds the end and does not wait.
                self._items.put(item)
                return
            if isinstance(item, _Raised):
                self._items.put(item)
                raise item.error
            yield item  # type: ignore[misc]

    def close(self) -> None:
        """Stop making items and wait for the thread."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._items.get(timeout=0.05)
            except queue.Empty:
                continue

    def _fill(self, source: Iterable[T]) -> None:
        try:
            iterator = iter(source)
            for item in iterator:
                self._items.put(item)
                if self._stopped.is_set():
                    break
            if hasattr(iterator, "close"):
                iterator.close()
            self._items.put(_END)
        except BaseException as error:
            self._items.put(_Raised(error))


class _Raised:
    """An error on its way to the consumer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

"""Threads that work ahead and keep the order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    call: Callable[[T], R], items: Iterable[T], threads: int, ahead: int, name: str
) -> Generator[R]:
    """Call a function with every item in threads, and yield what it returns in the items' order.

    Whoever may stop early closes the generator: that ends the threads.

    Args:
        call: the function; what it raises is raised when its turn comes.
        items: taken in the consumer's thread, one at a time.
        threads: calls at once.
        ahead: calls begun or done beyond the one whose result is yielded.
        name: of the threads, for people who look at them.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, name)
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items each, the last one perhaps shorter."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group

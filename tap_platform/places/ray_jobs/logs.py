"""What a driver on a Ray cluster prints, as it comes; a connection that drops is made anew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

QUIET_SECONDS = 20.0
"""After which a connection that brings nothing is not trusted any more, and made anew."""
PATIENCE_SECONDS = 120.0
"""How long a cluster may be away, such as while its head is started again."""
_PAUSE_SECONDS = 1.0


def followed_lines(
    client: JobSubmissionClient,
    job: str,
    quiet: float = QUIET_SECONDS,
    patience: float = PATIENCE_SECONDS,
) -> Iterator[str]:
    """The lines of a job's log, without their ends, until the job has ended.

    Args:
        client: of the cluster.
        job: its submission id.
        quiet: seconds of silence after which the connection is made anew.
        patience: seconds that the cluster may be away.

    Raises:
        ConnectionError: if it is away for longer.
        RuntimeError: if the cluster does not know the job (any more).
    """
    shown, begun, is_last = 0, "", False
    last_answer = time.monotonic()
    while not is_last:
        try:
            is_last = client.get_job_status(job).is_terminal()
            last_answer = time.monotonic()
            texts = (
                [client.get_job_logs(job)[shown:]] if is_last else _tail(client, job, shown, quiet)
            )
            for text in texts:
                shown += len(text)
                *lines, begun = (begun + text).split("\n")
                yield from lines
        except (OSError, RuntimeError) as error:
            if _is_unknown(error):
                raise
            if time.monotonic() > last_answer + patience:
                raise ConnectionError(f"no answer for {patience:.0f} s ({error})") from error
            is_last = False
        if not is_last:
            time.sleep(_PAUSE_SECONDS)
    if begun:
        yield begun


def _tail(client: JobSubmissionClient, job: str, skip: int, quiet: float) -> Iterator[str]:
    """What a job prints after its first `skip` characters, until the connection ends.

    A cluster sends a log from its beginning on. It ends the connection when the job has ended, but
    also when it lost the driver's node itself.
    """
    import aiohttp

    with asyncio.Runner() as runner:
        pieces = cast("AsyncGenerator[str, None]", client.tail_job_logs(job))
        try:
            while text := runner.run(asyncio.wait_for(anext(pieces, ""), quiet)):
                new, skip = text[skip:], max(0, skip - len(text))
                if new:
                    yield new
        except (TimeoutError, RuntimeError, OSError, aiohttp.ClientError):
            return
        finally:
            runner.run(pieces.aclose())


def _is_unknown(error: Exception) -> bool:
    """Whether the cluster answers that there is no such job; all else may be a head that starts."""
    return "status code 404" in str(error)

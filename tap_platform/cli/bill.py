"""What `tap report` does without a run: the bill of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click


def print_bill(storage: str, since: str | None, by: str, out: Sequence[Path]) -> None:
    """Write the bill to files; without any, print it as Markdown.

    Args:
        storage: a storage folder, or a mirror's URL.
        since: when the period begins, as `moment_of` takes it; None for all that there is.
        by: who a row is of, one of `By`.
        out: the files.

    Raises:
        ValueError: there is no such storage, or a word is wrong.
    """
    import time

    from tap_platform.bill.period import moment_of
    from tap_platform.bill.rows import By, make_bill
    from tap_platform.bill.text import as_markdown
    from tap_platform.bill.write import check_format, write_bill
    from tap_platform.runs.ledger import read_ledger

    now = time.time()
    begin = None if since is None else moment_of(since, now)
    for path in out:
        check_format(path)
    bill = make_bill(read_ledger(storage, now), cast(By, by.replace("-", "_")), begin)
    for path in out:
        write_bill(bill, path)
        click.echo(f"wrote {path}")
    if not out:
        click.echo(as_markdown(bill), nl=False)

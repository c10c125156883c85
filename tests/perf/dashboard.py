"""How fast the dashboard is with as many runs as a team makes in a year.

    python tests/perf/dashboard.py [--runs 1000] [--sweeps 100] [--rounds 5] [--keep FOLDER]

Makes real run and sweep directories, collects them as `tap dashboard` does, cold (nothing is kept
of an earlier look) and warm, serves the pages, and lets a headless Chromium open them. First paint
is the browser's own PerformancePaintTiming, from the start of the navigation; nothing is cached
between rounds, and the median counts. The last line is everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from browser import Browser
from made_runs import make_storage
from rich.console import Console
from rich.table import Table

from tap_platform.dashboard.collect import Collected, collect
from tap_platform.dashboard.pages import Pages
from tap_platform.dashboard.server import application, listen
from tap_platform.dashboard.site import Site

WIDTHS = (1440, 390)
LIMIT_MS = 1000.0


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it takes, and what comes of it."""
    begin = time.perf_counter()
    result = work()
    return round(time.perf_counter() - begin, 3), result


def measure(settings: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything, in seconds, milliseconds and bytes."""
    os.environ["TAP_CACHE"] = str(folder / "cache")
    storage = folder / "runs"
    make, _ = seconds(lambda: make_storage(storage, settings.runs, settings.sweeps, time.time()))
    cold, _ = seconds(lambda: collect([str(storage)]))
    warm, found = seconds(lambda: collect([str(storage)]))
    return {
        "runs": len(found.runs),
        "sweeps": len(found.sweeps),
        "skipped": sum(fault.skipped for fault in found.faults),
        "seconds": {"make": make, "collect_cold": cold, "collect_warm": warm, **_pages(found)},
        "bytes": _bytes(found),
        "first_paint_ms": _painted(str(storage), found, settings.rounds),
    }


def _pages(found: Collected) -> dict[str, float]:
    pages = Pages(found)
    sweep, run = found.sweeps[0].slug, found.runs[0].slug
    named = {"overview": "index.html", "leaderboard": "leaderboard.html"}
    named |= {"sweep": f"sweeps/{sweep}.html", "run": f"runs/{run}.html"}
    return {f"make_{name}": seconds(partial(pages.content, at))[0] for name, at in named.items()}


def _bytes(found: Collected) -> dict[str, int]:
    pages = Pages(found)
    addresses = (
        "index.html",
        "dashboard.css",
        "dashboard.js",
        f"sweeps/{found.sweeps[0].slug}.html",
    )
    contents = {address: pages.content(address) for address in addresses}
    return {address.rpartition("/")[2]: len(c.body) for address, c in contents.items() if c}


def _painted(storage: str, found: Collected, rounds: int) -> dict[str, Any]:
    """First paints of pages at each width: of the first round, and the median of all."""
    import uvicorn

    at = listen("127.0.0.1", 0)
    config = uvicorn.Config(application(Site([storage]), None), log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[at]), daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{at.getsockname()[1]}"
    pages = {"overview": "/", "sweep": f"/sweeps/{found.sweeps[0].slug}.html"}
    try:
        with Browser() as browser:
            browser.use_cache(use=False)
            return {
                f"{name}_{width}": _rounds(browser, f"{base}{address}", width, rounds)
                for name, address in pages.items()
                for width in WIDTHS
            }
    finally:
        server.should_exit = True
        thread.join(10)


def _rounds(browser: Browser, url: str, width: int, rounds: int) -> dict[str, float]:
    browser.resize(width)
    paints, loads = [], []
    for _ in range(rounds):
        browser.go(url)
        told = browser.first_paint_ms()
        paints.append(told["first-contentful-paint"])
        loads.append(told["content-loaded"])
    return {
        "first": round(paints[0]),
        "median": round(statistics.median(paints)),
        "worst": round(max(paints)),
        "content_loaded": round(statistics.median(loads)),
    }


def print_table(console: Console, results: dict[str, Any]) -> None:
    """What was measured, for people."""
    table = Table(title=f"The dashboard with {results['runs']:,} runs, {results['sweeps']} sweeps")
    table.add_column("what")
    table.add_column("measured", justify="right")
    for name, value in results["seconds"].items():
        table.add_row(name.replace("_", " "), f"{value:.2f} s")
    for name, value in results["bytes"].items():
        table.add_row(name, f"{value / 1000:,.0f} kB")
    for name, told in results["first_paint_ms"].items():
        table.add_row(f"first paint, {name.replace('_', ' at ')} px", f"{told['median']} ms")
    console.print(table)


def main() -> None:
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--sweeps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="make runs here, and leave them")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tap-dashboard-") as folder:
        results = measure(settings, settings.keep or Path(folder))
    paints = results["first_paint_ms"]
    worst = max(told["median"] for name, told in paints.items() if name.startswith("overview"))
    results["under_a_second"] = worst < LIMIT_MS
    print_table(Console(), results)
    print(json.dumps(results))


if __name__ == "__main__":
    main()

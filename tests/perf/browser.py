"""A Chromium without a window, asked over its own protocol: when it paints, and what it shows."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

from websocket import WebSocket, create_connection

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """One browser with one page."""

    def __init__(self) -> None:
        """Start it.

        Raises:
            FileNotFoundError: there is no Chromium here.
        """
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            raise FileNotFoundError("no Chromium here: install chromium to see pages in it")
        self._folder = tempfile.mkdtemp(prefix="tap-browser-")
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags += ["--enable-unsafe-swiftshader", "--no-first-run", "--remote-debugging-port=0"]
        self._process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={self._folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._number = 0
        self.faults: list[str] = []
        """What pages have written to the console as errors."""
        self._socket = self._connected()
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _connected(self) -> WebSocket:
        told = Path(self._folder) / "DevToolsActivePort"
        for _ in range(300):
            if told.exists() and told.read_text().count("\n"):
                break
            time.sleep(0.1)
        port = told.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
            pages = [page for page in json.load(answer) if page["type"] == "page"]
        return create_connection(pages[0]["webSocketDebuggerUrl"], suppress_origin=True, timeout=60)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        self._number += 1
        own = self._number
        self._socket.send(json.dumps({"id": own, "method": method, "params": params}))
        while True:
            told = json.loads(self._socket.recv())
            self._note(told)
            if told.get("id") == own:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']['message']}")
                return dict(told["result"])

    def _note(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        if told.get("method") == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(params["exceptionDetails"])[:500])
        elif told.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def ask(self, expression: str) -> Any:
        """The value of an expression on the page."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        return self.call("Runtime.evaluate", **asked)["result"].get("value")

    def go(self, url: str) -> None:
        """Open a page, and wait until it is loaded."""
        self.ask("window.left = true")
        self.call("Page.navigate", url=url)
        for _ in range(600):
            if self.ask("document.readyState === 'complete' && !window.left"):
                return
            time.sleep(0.05)
        raise TimeoutError(f"{url} is not loaded within 30 s")

    def first_paint_ms(self) -> dict[str, float]:
        """Milliseconds from the start of the navigation, by the browser's own clock."""
        self.ask("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        paints = self.ask(
            "Object.fromEntries(performance.getEntriesByType('paint')"
            ".map(each => [each.name, each.startTime]))"
        )
        loaded = self.ask("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
        return {**paints, "content-loaded": loaded}

    def use_cache(self, *, use: bool) -> None:
        """Whether what was fetched before is fetched again."""
        self.call("Network.setCacheDisabled", cacheDisabled=not use)

    def resize(self, width: int, height: int = 900) -> None:
        """The window's size in pixels; below 600 of width it is a phone's."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", **size, mobile=width < 600)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page."""
        told = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))

    def close(self) -> None:
        """End it."""
        self._socket.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

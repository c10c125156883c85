"""A headless Chromium that is told what to do through its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 60
"""Seconds until a page must be as expected."""


class Browser:
    """One tab of its own Chromium; it takes its files with it."""

    def __init__(self, folder: Path, width: int = 1280, height: int = 900) -> None:
        self._folder = folder
        self._size = f"--window-size={width},{height}"
        self._number = 0

    async def __aenter__(self) -> Self:
        assert CHROMIUM is not None
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        flags += [self._size, "--remote-debugging-port=0"]
        flags += [f"--user-data-dir={self._folder / 'profile'}"]
        self._process = subprocess.Popen(
            [CHROMIUM, *flags, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._http = aiohttp.ClientSession()
        address = f"http://127.0.0.1:{self._port()}/json"
        async with self._http.get(address) as reply:
            tab = next(each for each in await reply.json() if each["type"] == "page")
        self._socket = await self._http.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.close()
        self._process.terminate()
        self._process.wait(PATIENCE)

    def _port(self) -> int:
        file = self._folder / "profile" / "DevToolsActivePort"
        end = time.monotonic() + PATIENCE
        while not (file.exists() and file.read_text().count("\n")):
            assert time.monotonic() < end, "Chromium does not start"
            time.sleep(0.05)
        return int(file.read_text().splitlines()[0])

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            reply = json.loads((await self._socket.receive()).data)
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return reply["result"]

    async def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        reply = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return reply["result"].get("value")

    async def until(self, script: str, patience: float = PATIENCE) -> Any:
        """Wait until an expression is true; its value.

        Raises:
            TimeoutError: if it stays false.
        """
        end = time.monotonic() + patience
        while not (value := await self.evaluate(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"still not: {script}")
            await asyncio.sleep(0.05)
        return value

    async def click_until(self, selector: str, script: str) -> Any:
        """Click as a person does: again, if the page was not ready to hear it."""
        for _ in range(PATIENCE // 5):
            await self.click(selector)
            with suppress(TimeoutError):
                return await self.until(script, patience=5)
        return await self.until(script, patience=0)

    async def open(self, address: str) -> None:
        """Go to a page."""
        await self.call("Page.navigate", url=address)

    async def click(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Click on an element, at a share of its width and height."""
        script = f"JSON.stringify(document.querySelector({selector!r}).getBoundingClientRect())"
        box = json.loads(await self.evaluate(script))
        place = {"x": box["x"] + across * box["width"], "y": box["y"] + down * box["height"]}
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place
            )

    async def screenshot(self, file: Path) -> None:
        """Write what is seen as a PNG."""
        reply = await self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(reply["data"]))

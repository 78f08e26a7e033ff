"""A headless Chromium for the tests, driven over its DevTools protocol. Not a test itself."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
WITHIN_S = 20.0
PAUSE_S = 0.1


class Page:
    """One page of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=WITHIN_S)
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def shows(self, *texts: str, within_s: float = WITHIN_S) -> str:
        """Wait until the page shows all of these; return its text."""
        text: str = ""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    text = await self.evaluate("document.body ? document.body.innerText : ''")
                    if all(each in text for each in texts):
                        return text
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            raise AssertionError(f"the page does not show {texts}, but: {text[:3000]}") from None

    async def picture(self, *, x: int, y: int, width: int, height: int) -> bytes:
        """Return a PNG of a part of the page."""
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        shot = await self.call("Page.captureScreenshot", format="png", clip=clip)
        return base64.b64decode(shot["data"])


def chromium() -> str:
    """Return Chromium's program. Without one the tests that ask for it fail."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found is not None, "no Chromium on this machine: install it (Debian: apt-get install chromium)"
    return found


@asynccontextmanager
async def browsing(width: int, height: int) -> AsyncIterator[Page]:
    """Start a browser with an empty profile, its window of that size; yield its one page."""
    with tempfile.TemporaryDirectory(prefix="eventray-chromium-", ignore_cleanup_errors=True) as profile:
        flags = (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank")
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [chromium(), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            port = await _port(Path(profile, "DevToolsActivePort"), process)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    (target,) = [each for each in await answer.json() if each["type"] == "page"]
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _port(told: Path, process: subprocess.Popen[bytes]) -> int:
    """Wait until the browser has told its port."""
    async with asyncio.timeout(WITHIN_S):
        while not (told.exists() and "\n" in told.read_text()):
            assert process.poll() is None, f"Chromium has ended with {process.returncode}"
            await asyncio.sleep(PAUSE_S)
    return int(told.read_text().splitlines()[0])

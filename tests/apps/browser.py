"""A headless Chromium, driven through its DevTools protocol: pages with real keys, mouse and pictures."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import ClientSession, ClientTimeout, ClientWebSocketResponse

CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
NO_GPU = ("--disable-gpu",)
WEBGL = (
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
PROBLEMS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


class Browser:
    """One page of a Chromium.

    ``problems`` collects what the page's console says: exceptions, refused sources, failed requests; ``asked`` the
    addresses of all that pages have asked for.
    """

    def __init__(self, address: str) -> None:
        self.problems: list[str] = []
        self.asked: list[str] = []
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self._session, self._socket = self._loop.run_until_complete(self._connect())
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Give a command of the protocol and return its result."""
        return self._loop.run_until_complete(self._exchange(method, params))

    def open(self, url: str, width: int = 1440, height: int = 860) -> None:
        """Load a page in a window of this size in pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page, awaited where it is a promise."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the text that an element shows."""
        return str(self.evaluate(f"document.querySelector({selector!r}).innerText"))

    def wait_for(self, condition: str, seconds: float = 20) -> None:
        """Wait until an expression is true; what it looks for need not be there yet."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.evaluate(f"(() => {{ try {{ return Boolean({condition}); }} catch {{ return false; }} }})()"):
                return
            time.sleep(0.05)
        pytest.fail(f"{condition} does not become true; the page says:\n{self.text('body')}\n{self.problems}")

    def press(self, *keys: str) -> None:
        """Press and release keys, by the names that ``KeyboardEvent.key`` gives them."""
        for key in keys:
            code = CODES.get(key, ord(key.upper()[0]))
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            about = {"key": key, "windowsVirtualKeyCode": code}
            self.send("Input.dispatchKeyEvent", type="keyDown", **about, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def write(self, text: str) -> None:
        """Enter text into the field that has the focus, in place of what is selected there."""
        self.send("Input.insertText", text=text)

    def wheel(self, selector: str, down: float) -> None:
        """Turn the mouse wheel over the middle of an element."""
        x, y = self._middle(selector)
        self.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=down)

    def click(self, selector: str, right: float = 0.0, down: float = 0.0) -> None:
        """Click an element at so many pixels from its middle."""
        x, y = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send(
                "Input.dispatchMouseEvent", type=kind, x=x + right, y=y + down, button="left", buttons=1, clickCount=1
            )

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """End the connection."""
        self._loop.run_until_complete(self._session.close())
        self._loop.close()

    def _middle(self, selector: str) -> tuple[float, float]:
        box = self.evaluate(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    async def _connect(self) -> tuple[ClientSession, ClientWebSocketResponse]:
        session = ClientSession(timeout=ClientTimeout(total=60))
        return session, await session.ws_connect(self._address, max_msg_size=0)

    async def _exchange(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = await asyncio.wait_for(self._socket.receive_json(), 60)
            if message.get("method") == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
            if message.get("method") in PROBLEMS:
                self.problems.append(str(message["params"])[:600])
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result


@contextmanager
def chromium(folder: Path, webgl: bool = False) -> Iterator[Browser]:
    """Start Chromium with a profile of its own and give its page; the test is skipped where there is none.

    Args:
        folder: for profile and log.
        webgl: with WebGL, computed by the processor, and without any way to other machines.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here; apt install chromium")
    flags = ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", *(WEBGL if webgl else NO_GPU)]
    flags += ["--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}"]
    log = folder / "chromium.log"
    with log.open("w") as stream:
        process = subprocess.Popen([program, *flags, "about:blank"], stdout=stream, stderr=subprocess.STDOUT)
    try:
        port = _debugging_port(process, log)
        pages = requests.get(f"http://127.0.0.1:{port}/json", timeout=20).json()
        browser = Browser(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"))
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait(30)


def _debugging_port(process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> int:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        found = re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", log.read_text(errors="replace"))
        if found:
            return int(found[1])
        time.sleep(0.1)
    pytest.fail(f"Chromium did not start:\n{log.read_text(errors='replace')[-2000:]}")

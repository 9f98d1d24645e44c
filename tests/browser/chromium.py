"""A small client of headless Chromium: commands and events of its DevTools protocol, over two pipes.

    chromium --remote-debugging-pipe      reads commands from its descriptor 3, writes answers and events to 4,
                                          each a JSON object and a zero byte

Answers carry the number of their command; everything else is an event, kept in the order of arrival.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
"""What the browser may be called; the variable CHROMIUM names another."""
_FIRST_FREE = 10  # descriptors from here on cannot be those that the browser expects
_TIMEOUT = 60.0


class BrowserError(Exception):
    """The browser is missing, has ended, did not answer in time, or refused a command."""


def find_browser() -> str:
    """Path of the browser; BrowserError, with the way out, where there is none."""
    named = os.environ.get("CHROMIUM")
    found = [shutil.which(named)] if named else [path for name in NAMES if (path := shutil.which(name))]
    if not found or found[0] is None:
        raise BrowserError(f"no {named or 'Chromium'} on PATH; install it with: apt-get install chromium")
    return found[0]


class Browser:
    """A running browser; a context manager that ends it."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="leakmech-browser-", ignore_cleanup_errors=True)
        theirs_in, self._to = map(_high, os.pipe())
        self._from, theirs_out = map(_high, os.pipe())
        options = ["--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        options += ["--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={self._profile.name}"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to run as root with one
        command = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "browser", find_browser(), "--remote-debugging-pipe", *options, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest, self._number, self.events = b"", 0, []

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.send("Browser.close")
            self._process.wait(10)
        except (BrowserError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The answer to a command."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        try:
            data = json.dumps(message).encode() + b"\0"
            while data:
                data = data[os.write(self._to, data) :]
        except BrokenPipeError as problem:
            raise BrowserError("the browser has ended") from problem
        deadline = time.monotonic() + _TIMEOUT
        while True:
            received = self._receive(deadline, what=method)
            if received.get("id") == self._number:
                if "error" in received:
                    raise BrowserError(f"{method}: {received['error'].get('message')}")
                return received["result"]
            self.events.append(received)

    def wait_for(self, method: str, session: str) -> dict[str, Any]:
        """The parameters of the first event of that name that has not been waited for."""
        deadline, seen = time.monotonic() + _TIMEOUT, 0
        while True:
            for event in self.events[seen:]:
                seen += 1
                if (event.get("method"), event.get("sessionId")) == (method, session) and "waited" not in event:
                    event["waited"] = True
                    return event["params"]
            self.events.append(self._receive(deadline, what=method))

    def _receive(self, deadline: float, *, what: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise BrowserError(f"{what}: no answer within {_TIMEOUT:.0f} s")
            data = os.read(self._from, 1 << 20)
            if not data:
                raise BrowserError(f"{what}: the browser has ended")
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, file: Path, *, width: int = 1400, height: int = 900, dark: bool = False, hash: str = "") -> Page:
        """A file, shown in a window of that size."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, target, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable", session)
        page.resize(width, height)
        page.prefer("dark" if dark else "light")
        page.go(file.resolve().as_uri() + hash)
        return page


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser, self._target, self._session = browser, target, session

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.send("Target.closeTarget", targetId=self._target)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to a command for this page."""
        return self._browser.send(method, self._session, **params)

    def go(self, address: str) -> None:
        """Load an address, and wait until everything is there."""
        self.send("Page.navigate", url=address)
        self._browser.wait_for("Page.loadEventFired", self._session)
        self.settle()

    def settle(self) -> None:
        """Wait until two frames are drawn."""
        self.run("new Promise((done) => setTimeout(() => requestAnimationFrame(() => done(0)), 30))")

    def resize(self, width: int, height: int = 900) -> None:
        """Give the window that size; below 500 pixels it is a phone's."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip

    def prefer(self, scheme: str) -> None:
        """Ask for light or dark."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; BrowserError for one that throws."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    @property
    def complaints(self) -> list[str]:
        """Everything in the console that is an error or a warning, and exceptions."""
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            method, params = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"].get("text")))
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(str(params["args"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
        return found

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for; what it holds itself (data:) is none."""
        addresses = [
            event["params"]["request"]["url"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in addresses if not address.startswith("data:")]

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Save what the window shows, or the `whole` page, as PNG."""
        answer = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def print(self) -> bytes:
        """The page as PDF, on A4."""
        answer = self.send("Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(answer["data"])


def _high(descriptor: int) -> int:
    """A copy of a descriptor with a number that is not 3 or 4, in place of it."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    os.close(descriptor)
    return copy


if __name__ == "__main__":  # `make browser`: is there one?
    try:
        sys.stdout.write(f"{find_browser()}\n")
    except BrowserError as problem:
        sys.exit(f"make browser: {problem}")

"""A headless Chromium that opens a file, driven over its debugging pipe."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Browser", "Look", "chromium", "open_browser"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)
_PATIENCE = 120.0  # seconds until a browser that says nothing is given up
_MEASURE = """(() => {
  const root = document.scrollingElement;
  const images = [...document.images];
  const broken = images.filter(i => !i.complete || !i.naturalWidth).map(i => i.alt);
  return {width: root.scrollWidth, images: images.length, broken};
})()"""


class Look(NamedTuple):
    """What a browser finds on a page.

    Attributes:
        width: of the content, in pixels.
        images: number of pictures.
        broken: alternative texts of those that did not load.
        requests: addresses that were asked for, the data inside the page left out.
        problems: messages on the console that are errors or warnings.
        png: a screenshot of the whole page.
    """

    width: int
    images: int
    broken: list[str]
    requests: list[str]
    problems: list[str]
    png: bytes


def chromium() -> str | None:
    """Where a Chromium is installed, if one is."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Browser:
    """Commands to a running browser, and what it has said since.

    Args:
        to: end of the pipe that it reads.
        back: end of the pipe that it writes.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._last, self._buffer = 0, b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Give a command and wait for its answer."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._last:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def wait(self, method: str) -> None:
        """Wait for an event."""
        while all(event.get("method") != method for event in self.events):
            self.events.append(self._read())

    def look(self, path: Path, width: int, height: int, *, dark: bool = False) -> Look:
        """Open a file in a window of a size and look at it."""
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        tab = self.call("Target.attachToTarget", targetId=target, flatten=True)
        session = tab["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable", session)
        mobile = width < 600
        size = {"width": width, "height": height, "mobile": mobile}
        self.call(
            "Emulation.setDeviceMetricsOverride", session, deviceScaleFactor=1, **size
        )
        if dark:
            scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
            self.call("Emulation.setEmulatedMedia", session, features=scheme)
        self.call("Page.navigate", session, url=path.resolve().as_uri())
        self.wait("Page.loadEventFired")
        found = self.call(
            "Runtime.evaluate", session, expression=_MEASURE, returnByValue=True
        )["result"]["value"]
        shot = self.call("Page.captureScreenshot", session, captureBeyondViewport=True)[
            "data"
        ]
        self.call("Target.closeTarget", targetId=target)
        return Look(
            **found,
            requests=self._requests(),
            problems=self._problems(),
            png=base64.b64decode(shot),
        )

    def _requests(self) -> list[str]:
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]

    def _problems(self) -> list[str]:
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            if event.get("method") == "Runtime.consoleAPICalled":
                found.append(str(params["args"]))
            if event.get("method") == "Log.entryAdded":
                found.append(str(params["entry"]["text"]))
        return found

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + _PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._back], [], [], until - time.monotonic())
            part = os.read(self._back, 1 << 16) if ready else b""
            if not part:
                raise RuntimeError("the browser has stopped or does not answer")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@contextmanager
def open_browser(program: str) -> Iterator[Browser]:
    """Start a browser with a new profile, and stop it afterwards."""
    read, to = _high_pipe()
    back, write = _high_pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        quiet = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0o600) for n in (1, 2)]
        # the browser reads commands from descriptor 3 and answers on 4
        pipes = [(os.POSIX_SPAWN_DUP2, read, 3), (os.POSIX_SPAWN_DUP2, write, 4)]
        process = os.posix_spawn(
            program, command, dict(os.environ), file_actions=[*quiet, *pipes]
        )
        os.close(read)
        os.close(write)
        try:
            browser = Browser(to, back)
            yield browser
            browser.call("Browser.close")
        finally:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(to)
            os.close(back)


def _high_pipe() -> tuple[int, int]:
    """A pipe whose ends are above the descriptors that the browser is given."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends[0], ends[1]

"""A headless Chromium, driven over its debugging pipe; nothing to install beside the browser."""

import fcntl
import json
import os
import select
import shutil
import signal
import time
from base64 import b64decode
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PATIENCE = 120.0
_READS, _WRITES = 3, 4  # the descriptors that Chromium listens and answers on


def find() -> str | None:
    """The browser's program, or None where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a browser; a context manager that ends it.

    Args:
        program: the browser's.
        profile: an empty folder for what it keeps.
    """

    def __init__(self, program: str, profile: Path) -> None:
        # above the two, so that neither end lies where another one must go
        to_read, self._to_write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe())
        self._to_read, to_write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe())
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
        silent = os.open(os.devnull, os.O_RDWR)
        self._process = os.posix_spawn(
            program,
            [program, *options, "--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={profile}"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, silent, 1),
                (os.POSIX_SPAWN_DUP2, silent, 2),
                (os.POSIX_SPAWN_DUP2, to_read, _READS),
                (os.POSIX_SPAWN_DUP2, to_write, _WRITES),
            ],
            setpgroup=0,
        )
        for end in (to_read, to_write, silent):
            os.close(end)
        self._calls = 0
        self._unread = b""
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        for end in (self._to_read, self._to_write):
            os.close(end)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of Chromium's protocol."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to_write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._calls:
            pass
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str) -> None:
        """Shows a page, and returns once it is loaded."""
        self.complaints.clear()
        self.call("Page.navigate", url=url)
        while self.evaluate("document.readyState") != "complete" or self.evaluate("location.href") != url:
            time.sleep(0.02)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def resize(self, width: int, height: int = 800) -> None:
        """Makes the window as large as that of a phone or a laptop."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def scheme(self, name: str) -> None:
        """Lets the person prefer `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def press(self, key: str, code: int) -> None:
        """Presses a key and lets it go."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, png: Path) -> None:
        """Writes what the window shows."""
        png.write_bytes(b64decode(self.call("Page.captureScreenshot")["data"]))

    def _message(self) -> dict[str, Any]:
        end = time.monotonic() + _PATIENCE
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._to_read], [], [], max(end - time.monotonic(), 0))
            read = os.read(self._to_read, 1 << 20) if ready else b""
            if not read:
                raise AssertionError("the browser does not answer")
            self._unread += read
        line, self._unread = self._unread.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        self._listen(message)
        return message

    def _listen(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(parameters["args"]))

"""A real Chromium without a window, driven over a pair of pipes."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT_SECS = 60


def find():
    """The path of a Chromium on this machine, or `None`."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a Chromium.

    Attributes:
        complaints: What the page wrote to the console as an error or warning, or threw.
        requests: Every address that the page asked for.
    """

    def __init__(self, program, folder):
        self.complaints, self.requests = [], []
        self._buffer, self._number, self._session = b"", 0, None
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()

        def connect():  # Chromium reads what it is told from 3, and answers on 4
            for number, given in ((30, to_read), (31, to_write)):
                os.dup2(given, number)
            os.dup2(30, 3)
            os.dup2(31, 4)

        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        self._process = subprocess.Popen(
            [program, *arguments, "--remote-debugging-pipe", f"--user-data-dir={folder}"],
            preexec_fn=connect,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._write)
        self._process.terminate()
        self._process.wait(TIMEOUT_SECS)
        os.close(self._read)

    def ask(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._hear(answer)

    def open(self, path, *, is_dark=False, width=1200, height=900):
        """Show a file, and wait until it is loaded."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.ask("Page.navigate", url=Path(path).resolve().as_uri())
        while self.run("document.readyState") != "complete":
            pass

    def run(self, expression):
        """The value of an expression of JavaScript in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def move(self, x, y):
        """Move the pointer."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self):
        """The whole page as a PNG."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _next(self):
        until = time.monotonic() + TIMEOUT_SECS
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer.")
            part = os.read(self._read, 2**20)
            if not part:
                raise RuntimeError("Chromium has ended.")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _hear(self, event):
        kind, said = event.get("method"), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.complaints.append(str(said["exceptionDetails"]))
        elif kind == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
            self.complaints.append(str(said["args"]))
        elif kind == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"]["text"])
        elif kind == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])

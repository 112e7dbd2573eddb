"""A real Chromium without a window, driven over two pipes (its --remote-debugging-pipe): one page, keys, screenshots."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS = {"Enter": ("Enter", 13, "\r"), "Tab": ("Tab", 9, "")} | {
    f"Arrow{name}": (f"Arrow{name}", code, "")
    for name, code in (("Left", 37), ("Up", 38), ("Right", 39), ("Down", 40))
}


def found() -> str | None:
    """The path of a Chromium on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One page; `said` gathers what its console and its errors say, and which addresses it asked for."""

    def __init__(self, profile: Path, size: tuple[int, int] = (1280, 900), dark: bool = False):
        self.said: list[str] = []
        self.asked: list[str] = []
        self._buffer, self._next, self._answers = b"", 0, {}
        take, self._write = os.pipe()
        self._read, give = os.pipe()
        # Chromium reads orders at descriptor 3 and answers at 4
        command = f'exec "$0" "$@" 3<&{take} 4>&{give}'
        arguments = [
            found(), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
            f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            ["bash", "-c", command, *arguments], pass_fds=(take, give), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )  # fmt: skip
        os.close(take)
        os.close(give)
        targets = self.send("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = None
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for name in ("Runtime", "Log", "Page", "Network"):
            self.send(f"{name}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)

    _session: str | None = None

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._next += 1
        order: dict[str, Any] = {"id": self._next, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._write, json.dumps(order).encode() + b"\0")
        until = time.monotonic() + 60
        while self._next not in self._answers:
            self._hear(until)
        told = self._answers.pop(self._next)
        assert "error" not in told, told["error"]
        return told["result"]

    def _hear(self, until: float) -> None:
        assert time.monotonic() < until and self.process.poll() is None, "Chromium does not answer"
        if select.select([self._read], [], [], 0.2)[0]:
            self._buffer += os.read(self._read, 1 << 20)
        *whole, self._buffer = self._buffer.split(b"\0")
        for part in whole:
            told = json.loads(part)
            if "id" in told:
                self._answers[told["id"]] = told
            elif told["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                self.said.append(json.dumps(told["params"])[:2000])
            elif told["method"] == "Network.requestWillBeSent":
                self.asked.append(told["params"]["request"]["url"])

    def evaluate(self, script: str) -> Any:
        told = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def open(self, url: str, until: str) -> float:
        """Go there and wait until a script's value is true; returns the seconds that it took."""
        start = time.monotonic()
        self.send("Page.navigate", url=url)
        here = f"location.href.startsWith({json.dumps(url)})"
        self.wait(f"{here} && document.readyState === 'complete' && ({until})")  # its styles are there, too
        return time.monotonic() - start

    def wait(self, until: str, seconds: float = 30) -> None:
        last = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({until})"):
            assert time.monotonic() < last, (
                f"never came: {until}; {self.evaluate('document.body.innerText')[:500]}"
            )
            time.sleep(0.02)

    def press(self, *names: str) -> None:
        for name in names:
            key, code, text = KEYS[name]
            for kind in ("keyDown", "keyUp"):
                given = {"text": text} if text and kind == "keyDown" else {}
                self.send(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code=key,
                    windowsVirtualKeyCode=code,
                    **given,
                )

    def screenshot(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
        return path

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self._write)
        os.close(self._read)

"""A real browser without a window, driven over its own protocol (Chrome DevTools)."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One page of a Chromium of its own, while its ``with`` block lasts; ``wrong`` is what it complained about."""

    def __init__(self, folder: Path, width: int = 1200, height: int = 900):
        self.folder, self.size, self.wrong, self.count = folder, (width, height), [], 0

    def __enter__(self) -> "Page":
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        options += ["--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={self.folder}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([CHROMIUM, *options, "about:blank"], **quiet)
        try:
            told = self.folder / "DevToolsActivePort"
            self._wait(lambda: told.exists() and "\n" in told.read_text())
            port = told.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(target for target in json.load(answer) if target["type"] == "page")
            self.socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=60)
            for domain in ("Page", "Runtime", "Log"):
                self.ask(f"{domain}.enable")
            self.resize(*self.size)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(20)

    def _wait(self, ready, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end or self.process.poll() is not None:
                raise TimeoutError(f"the browser does not answer ({self.process.poll()})")
            time.sleep(0.02)

    def ask(self, method: str, **params) -> dict:
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while (message := json.loads(self.socket.recv())).get("id") != self.count:
            told = message.get("params", {})
            if message["method"] == "Runtime.exceptionThrown":
                self.wrong.append(told["exceptionDetails"].get("exception", {}).get("description", "?"))
            elif message["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
                self.wrong.append(str(told["args"]))
            elif message["method"] == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                self.wrong.append(told["entry"]["text"])
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **metrics)

    def open(self, address: str) -> None:
        self.ask("Page.navigate", url=address)
        self._wait(lambda: self.run("document.readyState === 'complete' && location.href !== 'about:blank'"))

    def run(self, script: str):
        """The value of a script's last expression, or of the promise that it is."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", script))
        return answer["result"].get("value")

    def settle(self) -> None:
        """Until what was changed is shown."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        self.ask("Input.insertText", text=text)

    def picture(self, path: Path, whole: bool = True) -> Path:
        made = self.ask("Page.captureScreenshot", captureBeyondViewport=whole, **(self._whole() if whole else {}))
        path.write_bytes(base64.b64decode(made["data"]))
        return path

    def _whole(self) -> dict:
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

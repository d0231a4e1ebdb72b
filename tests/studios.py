"""A studio that runs as a person starts it, and people in front of it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
START_SECONDS = 60
MILLISECONDS = 240_000
"""Most that anything in the browser may take."""


class Served:
    """A studio in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "flashportrait", "studio", "--no-browser", "--port", "0", "--threads", "1"]
        self.process = subprocess.Popen(
            [*command, "--device", "cpu", "--folder", str(folder), *options], stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._said = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._said.wait(START_SECONDS), self.lines
        self.url = re.search(r"http://\S+", self.lines[0])[0]

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            self._said.set()

    @property
    def newest(self) -> str:
        """Name of the entry that was made last."""
        return max(path.parent.name for path in self.folder.glob("*/job.json"))

    def end(self) -> int:
        """End it as Ctrl-C does, if it hasn't ended."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


class Visitor:
    """Somebody with a browser of his own."""

    def __init__(self, browser: Any, url: str, width: int = 1200, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True, **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(MILLISECONDS)
        self.trouble: list[str] = []
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", self._requested)
        self.url = url
        self.open()

    def _requested(self, request: Any) -> None:
        if not request.url.startswith((self.url.partition("?")[0], "data:", "blob:")):
            self.trouble.append(f"asks {request.url}")

    def open(self) -> None:
        """Come, or come again."""
        self.page.goto(self.url)
        self.page.wait_for_selector("#animate")

    def upload(self, portrait: Path, driver: Path) -> None:
        """Bring files, and see them looked at."""
        self.page.set_input_files("#portrait input[type=file]", portrait)
        self.page.wait_for_selector("#portrait-told .good")
        self.page.set_input_files("#driver input[type=file]", driver)
        self.page.wait_for_selector("#driver-told .good")

    def fill(self, control: str, value: str) -> None:
        """Type into a setting's field."""
        self.page.fill(f"#{control} input, #{control} textarea", value)

    def animate(self) -> None:
        """Press the button once the page has settled: what moves while it is pressed gets no click."""
        self.wait("frames", "#estimate")
        self.page.click("#animate")

    def wait(self, text: str, where: str = "#status") -> str:
        """What is said, once it has this in it."""
        self._until("([where, text]) => document.querySelector(where)?.innerText.includes(text)", [where, text])
        return self.page.inner_text(where)

    def wait_result(self) -> None:
        """See the result play."""
        self._until("() => document.querySelector('#trio video[data-main]')?.currentTime > 0.3")

    def _until(self, true: str, given: Any = None) -> None:
        """Wait for something; a failure shows the page as it is."""
        try:
            self.page.wait_for_function(true, arg=given)
        except Exception as error:
            videos = self.page.eval_on_selector_all(
                "video", "all => all.map(v => [v.currentSrc, v.readyState, v.networkState, v.paused, v.currentTime])"
            )
            raise AssertionError(f"never {true} with {given}:\n{self.page.inner_text('body')}\n{videos}") from error

    @property
    def watched(self) -> str:
        """Name of the entry whose result is shown."""
        return self.page.get_attribute("#trio video[data-main]", "src").split("/")[1]

"""A real Chromium for tests of the console, and what it must never do: ask another origin, complain in its console."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploy import build_console

#: WebGL is drawn by SwiftShader, so that the 3-D view is there without a GPU.
ARGUMENTS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
]
WIDE, LAPTOP = {"width": 1920, "height": 1080}, {"width": 1280, "height": 800}
#: Folder for pictures of the console; none are taken without it.
PICTURES = os.environ.get("HLTFARM_SCREENSHOTS")


def chromium() -> str:
    """The program; the test is skipped where there is none."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on this machine")
    return found


def need_console() -> None:
    """Skips the test where the console cannot be built."""
    if not build_console.build():
        pytest.skip("the console is not built, and cannot be: no npm, or no network")


class Window:
    """A page of one farm. `faults`: errors of its scripts and in its console; `strange`: requests that left the origin."""

    def __init__(self, browser: Any, url: str, *, expect: tuple[str, ...] = (), size: dict[str, int] = LAPTOP) -> None:
        self.url = url
        self.faults: list[str] = []
        self.strange: list[str] = []
        self.asked: list[str] = []
        self._expect = expect
        self.context = browser.new_context(viewport=size, color_scheme="dark", reduced_motion="reduce")
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._requested)

    def _said(self, message: Any) -> None:
        if message.type == "error" and not any(text in message.text for text in self._expect):
            self.faults.append(f"{message.text} ({message.location['url']})")

    def _requested(self, request: Any) -> None:
        self.asked.append(request.url)
        parts = urlsplit(request.url)
        if parts.scheme != "blob" and parts.netloc != urlsplit(self.url).netloc:
            self.strange.append(request.url)

    def open(self, view: str = "overview") -> None:
        """Go to a view."""
        self.page.goto(f"{self.url}/#/{view}")

    def picture(self, name: str) -> None:
        """The page in dark and light, if pictures are wanted."""
        if PICTURES is None:
            return
        for scheme in ("dark", "light"):
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            self.page.wait_for_timeout(1500)  # plots and canvases are drawn anew
            path = Path(PICTURES) / f"console-{name}-{scheme}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.page.screenshot())
        self.page.emulate_media(color_scheme="dark", reduced_motion="reduce")

    def colours(self, selector: str) -> int:
        """Number of different colours on a canvas: 1 is a blank one."""
        script = """(selector) => {
            const canvas = document.querySelector(selector);
            const copy = document.createElement("canvas");
            [copy.width, copy.height] = [canvas.width, canvas.height];
            const context = copy.getContext("2d");
            context.drawImage(canvas, 0, 0);
            const { data } = context.getImageData(0, 0, copy.width, copy.height);
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
        return int(self.page.evaluate(script, selector))

    def close(self) -> None:
        """Close it; fails if it complained or asked somebody else."""
        self.context.close()
        assert self.faults == []
        assert self.strange == []


@contextmanager
def browsing() -> Iterator[Any]:
    """A browser of its own."""
    program = chromium()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # of machines that are busy
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()

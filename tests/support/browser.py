"""A page in a real browser, and what it said and asked for while it was open."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page


@dataclass
class Opened:
    """A page that is open; ``requests`` leaves out those of data: URLs."""

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def find_browser() -> str | None:
    """Path of the system's Chromium; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


@contextmanager
def open_page(url: str, *, width: int = 1100, height: int = 900) -> Iterator[Opened]:
    """Opens a page without a screen; skips the test where there is no browser."""
    browser = find_browser()
    if not browser:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        try:
            opened = Opened(running.new_page(viewport={"width": width, "height": height}))
            opened.page.on("console", lambda message: opened.messages.append(message.text))
            opened.page.on("pageerror", lambda error: opened.messages.append(str(error)))
            opened.page.on(
                "request",
                lambda request: None if request.url.startswith("data:") else opened.requests.append(request.url),
            )
            opened.page.goto(url)
            yield opened
        finally:
            running.close()

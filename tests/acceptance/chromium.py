"""A real browser that reaches this machine alone: Debian's Chromium, driven by Playwright."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Browser, BrowserContext, Dialog, Page, sync_playwright

from docs.browser import FLAGS, NAMES, needed

DEADLINE_MS: Final = 60_000
_FLAGS: Final = [each for each in FLAGS if each not in ("--headless", "--remote-debugging-port=0")]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Give the browser for the time of a `with`."""
    path = needed(*NAMES)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """Somebody with a browser of their own. What the page complains about is kept in `complaints`."""

    def __init__(self, browser: Browser, **options: object) -> None:
        self.context: BrowserContext = browser.new_context(**options)  # type: ignore[arg-type]
        self.context.set_default_timeout(DEADLINE_MS)
        self.complaints: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("dialog", self._asked)

    def _asked(self, dialog: Dialog) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def sees(self, text: str, place: str = "body") -> None:
        """Return once a text is in a place of the page."""
        self.page.locator(place, has_text=text).first.wait_for()

    def sees_no(self, text: str, place: str = "body") -> None:
        """Return once a text is not in a place of the page."""
        self.page.locator(place, has_text=text).first.wait_for(state="detached")

"""A person at Open WebUI: `open_webui.py URL FOLDER CHROMIUM BASE_URL HEADERS` prints the chat's id and texts, as JSON.

Signs up, sets the connection, chats, has another answer, edits, uses a tool of the program's, stops an answer.
"""

import json
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

URL, FOLDER, CHROMIUM, BASE_URL, HEADERS = sys.argv[1:]

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    seen: dict[str, str] = {}

    def say(text: str) -> None:
        page.locator("#chat-input").click()
        page.keyboard.type(text)
        page.keyboard.press("Enter")

    def shown(text: str, times: int = 1) -> None:
        """Return when a text is shown, and the program waits for nothing more of that answer."""
        page.get_by_text(text).nth(times - 1).wait_for()
        page.get_by_role("button", name="Regenerate").last.wait_for()
        page.screenshot(path=str(Path(FOLDER) / f"{len(list(Path(FOLDER).glob('*.png')))}.png"))

    page.goto(URL)
    page.get_by_text("Get started").click()
    page.locator("input#name").fill("Ada")
    page.locator("input#email").fill("ada@example.com")
    page.locator("input[type=password]").first.fill("secret-secret-1")
    page.locator("button[type=submit]").click()
    news = page.get_by_text("Okay, Let's Go!")
    news.wait_for()
    news.evaluate("found => found.closest('button').click()")

    page.goto(f"{URL}/admin/settings/connections")
    page.get_by_role("button", name="Configure").click()
    connection = page.get_by_role("dialog").last
    connection.locator("#url-input").fill(BASE_URL)
    connection.get_by_text("Advanced").click()
    connection.get_by_placeholder("Enter additional headers in JSON format").fill(HEADERS)
    connection.get_by_role("button", name="Save").click()
    connection.locator("#url-input").wait_for(state="detached")

    page.goto(URL)
    say("add 2 and 3")
    shown("add returned 5. That was message 1 of this session.")
    seen["chat"] = page.url.rpartition("/")[2]
    say("add 4 and 5")
    shown("add returned 9. That was message 2 of this session.")
    page.get_by_role("button", name="Regenerate").last.click()
    again = page.get_by_text("Try Again")
    if again.count():
        again.last.click()
    page.get_by_text("2/2").wait_for()
    shown("add returned 9. That was message 2 of this session.")
    page.get_by_text("add 2 and 3", exact=True).last.hover()
    page.get_by_role("button", name="Edit").first.click()
    page.locator("textarea").first.fill("add 2 and 40")
    page.get_by_role("button", name="Send").first.click()
    shown("add returned 42. That was message 1 of this session.")
    say("get_current_timestamp")
    shown("View Result from get_current_timestamp")
    say("ponder 60")
    page.get_by_text("Let me call ponder.").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop").wait_for(state="detached")
    say("add 1 and 1")
    shown("add returned 2. That was message 4 of this session.")
    print(json.dumps(seen))
    browser.close()

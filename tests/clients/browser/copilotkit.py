"""A person at a page with CopilotKit: `copilotkit.py URL FOLDER CHROMIUM` prints what is shown at the end, as JSON."""

import json
import sys

from playwright.sync_api import sync_playwright

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=sys.argv[3], args=["--no-sandbox", "--disable-gpu"])
    page = browser.new_page()
    page.goto(sys.argv[1])

    def say(text: str) -> None:
        page.locator("textarea").first.fill(text)
        page.keyboard.press("Enter")

    def shown(text: str) -> None:
        page.get_by_text(text).first.wait_for()

    shown_at_first = page.locator("textarea").first
    shown_at_first.wait_for()
    say("hello")
    shown("Say for example")
    say("refund 120 for order B2")
    asked = page.locator("#asked")
    asked.wait_for()
    question = asked.inner_text()
    page.screenshot(path=f"{sys.argv[2]}/asked.png")
    page.locator("#yes").click()
    shown("Paid 120 euros back for order B2.")
    say("refund 70 for order C1")
    page.locator("#cancel").click()
    shown("A person said: False.")
    page.reload()
    shown("A person said: False.")
    say("refund 20 for order A7")
    shown("Paid 20 euros back for order A7.")
    page.screenshot(path=f"{sys.argv[2]}/end.png")
    print(json.dumps({"question": question, "text": page.locator("body").inner_text()}))
    browser.close()

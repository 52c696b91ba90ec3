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

    page.locator("textarea").first.wait_for()
    say("add 2 and 3")
    shown("add returned 5. That was message 1 of this session.")
    say("pay 120")
    asked = page.locator("#asked")
    asked.wait_for()
    question = asked.inner_text()
    page.screenshot(path=f"{sys.argv[2]}/asked.png")
    page.locator("#yes").click()
    shown("pay returned paid 120. That was message 2 of this session.")
    say("pay 70")
    page.locator("#cancel").click()
    shown("pay returned paid nothing. That was message 3 of this session.")
    page.reload()
    shown("pay returned paid nothing. That was message 3 of this session.")
    say("paint")
    shown("That was message 4 of this session.")
    page.screenshot(path=f"{sys.argv[2]}/end.png")
    print(json.dumps({"question": question, "title": page.title()}))
    browser.close()

"""The console in a real browser, over a real server: it moves as the line moves, and what people press works."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from acceptance.checkpoints import Checkpoints
from acceptance.chromium import Person, chromium
from acceptance.server import TARGETS, Server, serving, until
from strandline._access.keyring import new_key

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("console")
    with serving(TARGETS / "agent.py", folder=folder, variables=at.environment) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture
def ada(browser: Browser, server: Server) -> Iterator[Person]:
    """Somebody who has opened the console, and to whom the page has nothing to complain about at the end."""
    person = Person(browser)
    person.page.goto(server.url)
    person.sees("live", ".link")
    yield person
    person.context.close()
    assert person.complaints == []


def row(session_id: str) -> str:
    return f".row:has(a:text-is('{session_id}'))"


def test_two_people_see_the_same_line_move(ada: Person, browser: Browser, server: Server, at: Checkpoints) -> None:
    bob = Person(browser)
    bob.page.goto(f"{server.url}/console")
    bob.sees("live", ".link")
    at.hold("m1 model 0", "m2 model 0")
    server.line_up("m1", "m2", "m3", session_id="two")
    for person in (ada, bob):
        person.sees("executing · 2 waiting", row("two"))
    at.release("m1 model 0")
    for person in (ada, bob):
        person.sees("executing · 1 waiting", row("two"))
    at.release()
    for person in (ada, bob):
        person.sees("idle", row("two"))
    bob.context.close()
    assert bob.complaints == []


def test_what_waits_is_cancelled_and_a_session_paused_and_resumed(ada: Person, server: Server, at: Checkpoints) -> None:
    at.hold("c1 model 0")
    server.line_up("c1", "c2", session_id="cancelled")
    ada.page.get_by_label("Cancel the run that waits in cancelled").click()
    ada.sees("Cancelled the run that waits", ".told")
    ada.sees_no("waiting", row("cancelled"))
    ada.page.get_by_label("Pause cancelled").click()
    ada.sees("executing · paused", row("cancelled"))
    assert server.client.get("/v1/sessions/cancelled").json()["paused"]
    ada.page.get_by_label("Resume cancelled").click()
    ada.sees_no("paused", row("cancelled"))
    at.release()
    statuses = [each["status"] for each in server.client.get("/v1/sessions/cancelled/runs").json()["runs"]]
    assert "cancelled" in statuses


def test_sessions_are_filtered_and_found(ada: Person, server: Server, at: Checkpoints) -> None:
    at.hold("f1 model 0")
    server.chat("f0", "found")
    server.line_up("f1", session_id="executes")
    ada.sees("executing", row("executes"))
    ada.page.get_by_role("button", name="Executing").click()
    ada.sees_no("found", ".row .name")
    ada.page.get_by_role("button", name="All").click()
    ada.page.keyboard.press("/")
    ada.page.keyboard.type("FOUN")
    ada.sees("found", ".row .name")
    ada.sees_no("executes", ".row .name")


def test_a_run_says_why_it_waits_and_is_cancelled(ada: Person, server: Server, at: Checkpoints) -> None:
    at.hold("r1 model 0")
    server.line_up("r1", "r2", session_id="runs")
    ada.page.locator(row("runs")).get_by_role("link").click()
    ada.sees("ahead", "small.why")
    ada.page.locator(".queue").get_by_role("link").click()
    ada.sees("waiting", ".head .badge")
    ada.page.get_by_role("button", name="Cancel").click()
    ada.sees("cancelled", ".head .badge")
    at.release()


def test_five_messages_at_once_wait_in_line_and_each_is_answered(ada: Person, server: Server, at: Checkpoints) -> None:
    server.chat("first", "five")
    ada.page.goto(f"{server.url}/#/sessions/five")
    at.hold("go model 0")
    ada.page.get_by_label("Message").fill("go")
    ada.page.keyboard.press("Enter")
    at.reached("go model 0")
    ada.page.get_by_label("Message").fill("q")
    ada.page.get_by_role("button", name="Send 5 at once").click()
    ada.page.locator(".queue li").nth(4).wait_for()
    at.release()
    ada.page.locator(".queue").wait_for(state="detached")
    server.quiet()
    runs = server.client.get("/v1/sessions/five/runs").json()["runs"]
    assert [each["status"] for each in runs] == ["succeeded"] * 7


def test_a_question_is_answered_by_one_and_gone_for_the_other(ada: Person, browser: Browser, server: Server) -> None:
    server.chat("q1 @pay", "asks")
    bob = Person(browser)
    bob.page.goto(f"{server.url}/#/questions")
    bob.sees("asks", "h2")
    ada.page.locator(row("asks")).get_by_role("link").click()
    ada.page.get_by_role("button", name="Yes").click()
    bob.sees("No agent asks anything at the moment.")
    ada.sees("did @pay", ".message.assistant")
    bob.context.close()
    assert bob.complaints == []


def test_hostile_text_is_shown_as_text(browser: Browser, at: Checkpoints, tmp_path: Path) -> None:
    """Tags, links that run code, images of others, text from right to left, deep nesting, and one megabyte."""
    hostile = (
        "Look: <script>alert(1)</script> <img src=x onerror=alert(2)> [press](javascript:alert(3)) "
        "![seen](https://images.example/x.png) \u202egnp.exe <b>not bold</b>"
    )
    with serving(f"{TARGETS / 'function.py'}:answer", folder=tmp_path, variables=at.environment) as server:
        for text in (f"{'long ' * 210_000}<b>", f"{'>' * 500} deep", hostile):
            server.chat(text, "hostile")
        ada = Person(browser)
        asked: list[str] = []
        ada.page.on("request", lambda request: asked.append(request.url))
        ada.page.goto(f"{server.url}/#/sessions/hostile")
        for role in ("user", "assistant"):
            for text in ("<script>alert(1)</script>", "<b>not bold</b>", "image: seen", "deep", "long long"):
                ada.sees(text, f".message.{role}")
        for tag in ("script", "img", "b:text('not bold')", "iframe", "a[href^='javascript']"):
            assert ada.page.locator(f".log {tag}").count() == 0, tag
        assert all(each.startswith(server.url) for each in asked)
        ada.context.close()
        assert ada.complaints == []


def test_a_lost_connection_is_shown_and_healed(browser: Browser, at: Checkpoints, tmp_path: Path) -> None:
    """By the process that the server is killed in, and by the same one started again on its port."""
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as before:
        port = int(before.url.rpartition(":")[2])
        before.chat("k0", "kept")
        ada = Person(browser)
        ada.page.goto(before.url)
        ada.sees("idle", row("kept"))
        before.kill()
        ada.sees("The connection to the server is lost", ".lost")
        at.hold("k1 model 0")
        with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment, port=port) as after:
            after.line_up("k1", session_id="kept")
            ada.sees("executing", row("kept"))
            ada.sees("live", ".link")
            assert ada.page.locator(".lost").count() == 0
            at.release()
            ada.sees("idle", row("kept"))
            ada.context.close()
        before.start()  # (its `with` ends it)


def test_with_keys_the_page_asks_for_one_and_keeps_it_for_the_tab(
    browser: Browser, at: Checkpoints, tmp_path: Path
) -> None:
    (ada_key, ada_line), (bob_key, bob_line), (ops_key, ops_line) = (
        new_key("ada"),
        new_key("bob"),
        new_key("ops", operator=True),
    )
    (tmp_path / "keys").write_text("".join(f"{each.line()}\n" for each in (ada_line, bob_line, ops_line)))
    flags = ("--api-keys-file", "keys")
    with serving(TARGETS / "agent.py", *flags, folder=tmp_path, variables=at.environment) as server:
        for key, name in ((ada_key, "of-ada"), (bob_key, "of-bob")):
            headers = {"Authorization": f"Bearer {key}"}
            answer = server.client.post("/chat", json={"message": "q", "session_id": name}, headers=headers)
            assert answer.status_code == 200
        person = Person(browser)
        page = person.page
        page.goto(server.url)
        page.get_by_label("API key").fill("not-a-key")
        page.keyboard.press("Enter")
        person.sees("this key is not valid", ".problem")
        page.get_by_label("API key").fill(ada_key)
        page.keyboard.press("Enter")
        person.sees("idle", row("of-ada"))
        assert "of-bob" not in page.content()
        assert ada_key not in page.content()
        assert ada_key not in page.url
        page.reload()
        person.sees("idle", row("of-ada"))
        other_tab = person.context.new_page()
        other_tab.goto(server.url)
        other_tab.get_by_label("API key").wait_for()
        page.get_by_title("Forget the key of this tab").click()
        page.get_by_label("API key").fill(ops_key)
        page.keyboard.press("Enter")
        person.sees("bob/of-bob", ".row .name")
        person.sees("operator", ".quiet")
        person.context.close()


def test_a_revoked_key_is_asked_for_again(browser: Browser, at: Checkpoints, tmp_path: Path) -> None:
    key, line = new_key("ada")
    _, other = new_key("bob")
    (tmp_path / "keys").write_text(f"{line.line()}\n{other.line()}\n")
    with serving(TARGETS / "agent.py", "--api-keys-file", "keys", folder=tmp_path, variables=at.environment) as server:
        person = Person(browser)
        person.page.goto(server.url)
        person.page.get_by_label("API key").fill(key)
        person.page.keyboard.press("Enter")
        person.sees("live", ".link")
        (tmp_path / "new").write_text(f"{other.line()}\n")
        (tmp_path / "new").rename(tmp_path / "keys")
        person.sees("This key is not valid any more.", ".problem")
        person.context.close()


def test_the_page_looks_as_the_system_does_and_fits_a_phone(browser: Browser, server: Server) -> None:
    server.chat("p", "a-session-with-a-name-that-is-much-longer-than-the-screen-of-a-phone-is-wide")
    for theme in ("light", "dark"):
        person = Person(browser, viewport={"width": 360, "height": 700}, color_scheme=theme)
        person.page.goto(server.url)
        person.sees("idle", ".row")
        wide = person.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, "nothing makes the page wider than the phone"
        paper = person.page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(","))) > 3 * 128
        assert light is (theme == "light")
        person.context.close()
    until(lambda: server.inside() == 0, "quiet")

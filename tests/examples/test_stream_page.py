"""examples/stream-page: its page in a real browser, with the example's own server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.mounted import mounted
from acceptance.server import texts
from docs.browser import Published, published
from docs.pages import printed
from examples_shown import example, with_real_model
from fakes.provider import Provider, ToolCall

SHOWN = example("stream-page")
DRIVER = """
<script>
  const seen = [];
  new MutationObserver(() => {
    seen.push(answer.textContent);
    if (state.textContent == "succeeded")
      fetch("POSTED", {method: "POST", mode: "no-cors", body: JSON.stringify({seen, hash: location.hash})});
  }).observe(document.body, {childList: true, subtree: true});
  if (!location.hash) form.requestSubmit();
</script>
"""
"""What a person does: they ask, and look at what is shown."""
ANSWER = 'Let me look. \n(order_status {"number":17})\nYour order is on its way.\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return SHOWN.copy(tmp_path / "page")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Published]:
    with published(tmp_path) as page:
        yield page


def test_the_page_shows_an_answer_as_it_comes_and_comes_back_to_it(folder: Path, browser: Published) -> None:
    page = folder / "page.html"
    page.write_text(page.read_text() + DRIVER.replace("POSTED", f"{browser.url}/posted"))
    with mounted("app:app", folder=folder) as server:
        shown = browser.posted(f"{server.url}/")
        assert shown["seen"][-1] == ANSWER
        assert all(ANSWER.startswith(text) for text in shown["seen"])
        assert len(set(shown["seen"])) > 4, "it came in pieces"
        assert texts(server.history("page"), "user") == ["where is 17?"]
        again = browser.posted(f"{server.url}/{shown['hash']}")
        assert again["seen"][-1] == ANSWER
        server.kill()
        server.start()
        late = browser.posted(f"{server.url}/{shown['hash']}")
        assert late["seen"][-1] == "Your order is on its way."
        assert texts(server.history("page"), "user") == ["where is 17?"], "nothing was asked again"


PLAYED = """
<script>
  const message = (text) => ({role: "assistant", content: [{text}]});
  const last = {status: "succeeded", output: "sent whole", error: null};
  for (const [type, data] of [
    ["run.restarted", {messages: [{role: "user", content: [{text: "asked"}]}, message("kept")]}],
    ["text.delta", {text: "a sec"}], ["message.added", {message: message("(redacted)")}],
    ["message.added", {message: message("sent whole")}], ["run.finished", last],
  ]) heard[type]({data: JSON.stringify(data)});
  fetch("POSTED", {method: "POST", mode: "no-cors", body: JSON.stringify({shown: answer.textContent})});
</script>
"""
HEARD = """
<script>
  const heard = {};
  window.EventSource = class { addEventListener(type, then) { heard[type] = then; } close() {} };
  location.hash = "run_1";
</script>
"""


def test_messages_count_and_not_their_pieces(folder: Path, browser: Published) -> None:
    page = folder / "page.html"
    page.write_text(HEARD + page.read_text() + PLAYED.replace("POSTED", f"{browser.url}/posted"))
    with mounted("app:app", folder=folder) as server:
        assert browser.posted(f"{server.url}/")["shown"] == "kept\n(redacted)\nsent whole\n"


def test_the_command_of_its_page_streams(folder: Path) -> None:
    command = next(block for block in SHOWN.blocks("sh") if "curl" in block)
    with mounted("app:app", folder=folder) as server:
        shown = printed(command.replace("http://127.0.0.1:8000", server.url), folder=folder)
    assert shown.count("event: tool.started") == 1
    assert "event: run.finished" in shown


def test_the_page_is_short_and_loads_nothing_from_elsewhere() -> None:
    page = (SHOWN.folder / "page.html").read_text()
    assert len(page.splitlines()) <= 50
    assert "//" not in page.replace("  // ", "").replace("  //", "")


def test_the_lines_for_a_real_model_are_all_that_it_takes(folder: Path) -> None:
    with_real_model(folder, SHOWN, "app.py")
    with Provider() as provider:
        provider.then([ToolCall("order_status", {"number": 17})], "It is on its way.")
        variables = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": provider.url}
        with mounted("app:app", folder=folder, variables=variables) as server:
            assert server.chat("where is 17?")["response"] == "It is on its way."

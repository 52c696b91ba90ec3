"""`docs/streaming.md`: its feed of changes, and its script in a browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.events import listening
from acceptance.server import Server, ran, serving
from docs.browser import published
from docs.pages import block, printed, text, typed_and_shown
from strandline._http.app.event_schemas import RUN_EVENTS

PAGE = "streaming.md"
TEXT = text(PAGE)
FOLLOW = "/v1/events?"
BROWSER = """<!doctype html><meta charset="utf-8"><script>
const shown = [];
const post = (value) => fetch("/posted", { method: "POST", body: JSON.stringify(value) });
const server = (path) => new URL(path, "SERVER").href;
const fetched = window.fetch;
window.fetch = (path, options) => fetched(path === "/posted" ? path : server(path), options);
const Source = window.EventSource;
window.EventSource = class extends Source { constructor(path) { super(server(path)); } };
SCRIPT
ask("eve", "add 2 and 3", (text) => {
  shown.push(text);
  if (text.endsWith("session.")) setTimeout(() => post(shown), 0);
}).catch((error) => post(String(error)));
</script>"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("streaming")
    assert ran("init", folder=folder).returncode == 0
    with serving(None, folder=folder, variables={"STRANDLINE_DEMO_PACE": "0"}) as server:
        yield server


def test_changes_are_published_as_the_page_shows(server: Server, tmp_path: Path) -> None:
    ((command, output),) = typed_and_shown(block(PAGE, "console", FOLLOW))
    path = re.search(r"localhost:8080(/[^']*)'", command)
    assert path is not None
    with listening(server, "GET", path[1]) as ear:
        printed(block(PAGE, "sh", "/pause"), folder=tmp_path, url=server.url)
        ear.until("session.paused")
    events = re.findall(r"^event: (.*)\ndata: (.*)$", output, re.MULTILINE)
    assert [each.type for each in ear.heard] == [kind for kind, _ in events]
    for each, (_, data) in zip(ear.heard, events, strict=True):
        for name, value in re.findall(r'"(type|status|session_id)":"([^"]*)"', data):
            assert each.data[name] == value


def test_every_event_that_it_names_is_one() -> None:
    kinds = {str(kind.__struct_config__.tag) for kind in RUN_EVENTS}
    table = re.findall(r"^\| `([a-z.]+)` \|", TEXT, re.MULTILINE)
    assert set(table) <= kinds
    assert {"text.reset", "run.restarted", "stream.gap", "run.finished"} <= set(table)
    assert set(re.findall(r'on\("([a-z.]+)"', TEXT)) <= kinds


def test_its_script_shows_an_answer_in_a_browser_as_it_comes(tmp_path: Path) -> None:
    assert ran("init", folder=tmp_path).returncode == 0
    folder = tmp_path / "page"
    folder.mkdir()
    with (
        published(folder) as site,
        serving(None, f"--cors-origins={site.url}", folder=tmp_path, variables={"STRANDLINE_DEMO_PACE": "0"}) as server,
    ):
        html = BROWSER.replace("SERVER", server.url).replace("SCRIPT", block(PAGE, "js", "EventSource"))
        (folder / "index.html").write_text(html)
        shown = site.posted(f"{site.url}/index.html")
    assert "Let me call add." in shown[0]
    assert shown[-1] == "add returned 5. That was message 1 of this session."
    assert len(shown) > 3

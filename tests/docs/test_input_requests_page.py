"""`docs/input-requests.md`: its code is the example's, and a waiting message is shown as it waits."""

import json
import re
from pathlib import Path

from acceptance.events import listening
from acceptance.server import serving
from docs.pages import block, blocks, shows
from examples_shown import example

PAGE = "input-requests.md"
SHOWN = example("approval")


def test_its_code_is_that_of_the_example() -> None:
    (code,) = blocks(PAGE, "python")
    assert code in (SHOWN.folder / "agent.py").read_text()


def test_a_plain_message_that_answers_leaves_nothing_pending(tmp_path: Path) -> None:
    with serving(*SHOWN.serve, folder=SHOWN.copy(tmp_path / "approval"), journal=None) as server:
        for body in re.findall(r"/chat -d '(.*)'", "".join(blocks(PAGE, "sh"))):
            server.client.post("/chat", json=json.loads(body)).raise_for_status()
        history = server.client.get("/v1/sessions/till/history").json()["messages"]
        assert [message["pending"] for message in history] == [False] * 4


def test_the_stream_of_a_waiting_message_begins_as_shown(tmp_path: Path) -> None:
    event, data = block(PAGE, "text", "run.queued").split("\n", 1)
    shown = json.loads(re.sub(r"\s*\n\s*", "", data.removeprefix("data: ")))
    with serving(*SHOWN.serve, folder=SHOWN.copy(tmp_path / "approval"), journal=None) as server:
        server.chat("refund 75 for order C1", "till")
        with listening(server, "POST", "/v1/sessions/till/runs", json={"input": "hello"}) as ear:
            first = next(iter(ear))
            server.client.delete("/v1/sessions/till?force=true")
    assert f"event: {first.type}" == event
    shown["why"]["text"] = re.sub(r"[\d:]+ UTC", "... UTC", shown["why"]["text"])
    assert shows(first.data, shown), first.data

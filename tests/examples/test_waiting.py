"""examples/waiting: a packer that stops when somebody waits, and not before."""

import json
import re
from pathlib import Path

from acceptance.server import Server, serving, texts
from examples_shown import example, with_real_model
from fakes.provider import Provider, ToolCall

SHOWN = example("waiting")
INPUTS = re.findall(r"'(\{\"input\".*?\})'", SHOWN.readme)


def post(server: Server) -> None:
    """Send what the page shows, and return when all has ended."""
    (body,) = SHOWN.chat_bodies
    assert server.client.post("/chat", json=body).json()["status"] == "success"
    server.client.post("/v1/sessions/shop/pause").raise_for_status()
    runs = [server.client.post("/v1/sessions/shop/runs", json=json.loads(each)).json() for each in INPUTS]
    server.client.post("/v1/sessions/shop/resume").raise_for_status()
    for run in runs:
        assert server.run(run["run_id"], wait_s=60)["status"] == "succeeded"


def test_the_packer_stops_when_somebody_waits_and_says_who(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "waiting")
    with serving(*SHOWN.serve, folder=folder, journal=None) as server:
        post(server)
        assert texts(server.history("shop"), "assistant") == [
            "All 3 boxes are packed.",
            "I stopped packing after 1 of 9 boxes. Ada: where is my parcel?",
            "I am free now. You said: where is my parcel?",
        ]


def test_a_task_that_waits_is_not_taken_for_the_one_that_is_stopped(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "waiting")
    with serving(*SHOWN.serve, folder=folder, journal=None) as server:
        assert server.client.post("/chat", json={"session_id": "shop", "message": "pack 1 boxes"}).status_code == 200
        server.client.post("/v1/sessions/shop/pause").raise_for_status()
        runs = [
            server.client.post("/v1/sessions/shop/runs", json={"input": f"pack {count} boxes"}).json()
            for count in (5, 2)
        ]
        server.client.post("/v1/sessions/shop/resume").raise_for_status()
        assert [server.run(run["run_id"], wait_s=60)["status"] for run in runs] == ["succeeded"] * 2
        assert texts(server.history("shop"), "assistant")[1:] == [
            "I stopped packing after 1 of 5 boxes. Somebody: pack 2 boxes",
            "All 2 boxes are packed.",
        ]


def test_a_real_model_reads_what_waits(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "waiting")
    with_real_model(folder, SHOWN)
    with Provider() as provider:
        provider.then("All 3 are.", [ToolCall("waiting_messages")], "Ada waits.", "Hello Ada.")
        variables = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": provider.url}
        with serving(*SHOWN.serve, folder=folder, journal=None, variables=variables) as server:
            post(server)
            assert texts(server.history("shop"), "assistant") == ["All 3 are.", "Ada waits.", "Hello Ada."]
        sent = json.dumps(provider.requests[2].body)
        assert "where is my parcel?" in sent
        assert "not instructions" in sent
        described = json.dumps(provider.requests[0].body["tools"])
        assert "waiting_messages" in described

"""A real server's traces and log: what leaves the process, over its death too, and what does not."""

import json
import re
import sys
from typing import Any, Final, NamedTuple

import pytest

from acceptance.server import Server, until

AGENT: Final = '''
import asyncio, logging, pathlib
from strands import Agent, tool
from strandline.testing import ScriptedModel
from strandline._scripted.model import call, question

log = logging.getLogger("mine")

@tool
def look(what: str) -> str:
    """Look."""
    log.warning("looked")
    return "seen"

def make_agent():
    async def script(messages):
        asked = question(messages)
        if asked == "hold":
            while not pathlib.Path("go").exists():
                await asyncio.sleep(0.01)
        if asked.startswith("fail"):
            raise ValueError(f"cannot do: {asked}")
        return "done" if "toolResult" in messages[-1]["content"][0] else [call("look", {"what": asked})]
    return Agent(model=ScriptedModel(script), tools=[look], callback_handler=None)
'''
EXPORTER: Final = """
import json, os
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

class ToFile(SpanExporter):
    def export(self, spans):
        with open(os.environ["SPANS"], "a") as file:
            for each in spans:
                file.write(json.dumps(json.loads(each.to_json())) + "\\n")
        return SpanExportResult.SUCCESS
"""
SECRET: Final = "xyzzy-4711"
PARENT: Final = "b7ad6b7169203331"
TRACES: Final = {name: f"{number:032x}" for number, name in enumerate(("held", "waits", "runs", "openai", "core"), 1)}


class JsonServer(Server):
    announcement = re.compile(r' at http://[\w.]+:(\d+)"}$')


class Seen(NamedTuple):
    """What two processes left, the first of which was killed."""

    spans: list[dict[str, Any]]
    lines: list[dict[str, Any]]
    runs: dict[str, str]


def headers(name: str) -> dict[str, str]:
    return {"traceparent": f"00-{TRACES[name]}-{PARENT}-01"}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("traces")
    (folder / "agent.py").write_text(AGENT)
    packages = folder / "packages"
    about = packages / "to_file-1.dist-info"
    about.mkdir(parents=True)
    (packages / "to_file.py").write_text(EXPORTER)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: to_file\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[opentelemetry_traces_exporter]\nto_file = to_file:ToFile\n")
    variables = {
        "PYTHONPATH": ":".join([str(packages), *filter(None, sys.path)]),
        "STRANDLINE_LOG_FORMAT": "json",
        "STRANDLINE_RETRY_AFTER": "1",
        "OTEL_TRACES_EXPORTER": "to_file",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",  # only what is flushed at the stop leaves the process
        "SPANS": str(folder / "spans"),
    }
    server = JsonServer("agent.py", folder=folder, variables=variables)
    runs: dict[str, str] = {}
    try:
        server.start()
        run_api = "/v1/sessions/s/runs"
        runs["held"] = server.client.post(run_api, json={"input": "hold"}, headers=headers("held")).json()["run_id"]
        until(lambda: server.health()["running"] == 1, "running")
        runs["waits"] = server.client.post(run_api, json={"input": SECRET}, headers=headers("waits")).json()["run_id"]
        server.kill()
        (folder / "go").touch()
        server.start()
        for name in ("held", "waits"):
            assert server.run(runs[name], wait_s=30)["status"] == "succeeded"
        wait = {"Prefer": "wait=30"}
        runs["runs"] = server.client.post(
            "/v1/sessions/t/runs", json={"input": f"fail {SECRET}"}, headers=headers("runs") | wait
        ).json()["run_id"]
        body = {"model": "m", "messages": [{"role": "user", "content": SECRET}], "user": "default"}
        runs["openai"] = server.client.post("/v1/chat/completions", json=body, headers=headers("openai")).json()["id"]
        xray = {"X-Amzn-Trace-Id": f"Root=1-{TRACES['core'][:8]}-{TRACES['core'][8:]};Parent={PARENT};Sampled=1"}
        runs["core"] = server.client.post("/invocations", json={"prompt": "hi"}, headers=xray).json()["run_id"]
        answer = server.client.post("/chat", json={"message": "hi"}, headers={"traceparent": "x" * 9000})
        runs["chat"] = answer.json()["run_id"]
        server.terminate()
        assert server.ended() == 0
    finally:
        server.close()
    spans = [json.loads(line) for line in (folder / "spans").read_text().splitlines()]
    return Seen(spans, [json.loads(line) for line in server.stderr.splitlines()], runs)


def of(seen: Seen, run_id: str) -> dict[str, dict[str, Any]]:
    """Return the spans of the trace that a run is in, by name."""
    (run,) = (each for each in seen.spans if each["attributes"].get("strandline.run_id") == run_id)
    return {each["name"]: each for each in seen.spans if each["context"]["trace_id"] == run["context"]["trace_id"]}


@pytest.mark.parametrize("name", TRACES)
def test_every_protocol_carries_the_trace_of_its_request(seen: Seen, name: str) -> None:
    spans = of(seen, seen.runs[name])
    run = spans["strandline.run"]
    assert (run["context"]["trace_id"], run["parent_id"]) == (f"0x{TRACES[name]}", f"0x{PARENT}")
    agent = spans["invoke_agent Strands Agents"]
    assert agent["parent_id"] == spans["strandline.execute"]["context"]["span_id"]
    assert spans["strandline.commit"]["parent_id"] == run["context"]["span_id"]


def test_a_killed_process_leaves_the_trace_to_the_next_one(seen: Seen) -> None:
    held, waits = of(seen, seen.runs["held"]), of(seen, seen.runs["waits"])
    assert held["strandline.run"]["attributes"]["strandline.attempt"] == 2
    assert waits["strandline.run"]["attributes"]["strandline.attempt"] == 1
    assert "strandline.wait" in waits
    assert "strandline.wait" not in held


def test_a_request_without_a_usable_trace_begins_one(seen: Seen) -> None:
    spans = of(seen, seen.runs["chat"])
    accept = spans["strandline.accept"]
    assert accept["parent_id"] is None
    assert spans["strandline.run"]["parent_id"] == accept["context"]["span_id"]


def test_spans_are_sent_under_the_name_of_the_server(seen: Seen) -> None:
    assert {each["resource"]["attributes"]["service.name"] for each in seen.spans} == {"strandline"}


def test_every_line_of_the_log_is_json(seen: Seen) -> None:
    """Of both processes, from the first to the last, with what is said to people otherwise."""
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in seen.lines)
    assert len([line for line in seen.lines if "serves" in line["message"]]) == 2
    assert seen.lines[-1]["message"] == "stopped"


def test_lines_of_the_agents_own_code_say_which_run_they_belong_to(seen: Seen) -> None:
    looked = [line for line in seen.lines if line["logger"] == "mine"]
    assert [line["run_id"] for line in looked] == [
        seen.runs[name] for name in ("held", "waits", "openai", "core", "chat")
    ]
    assert looked[0].items() >= {"session_id": "s", "trace_id": TRACES["held"]}.items()


def test_a_failing_agent_is_traced_without_any_text_of_its_conversation(seen: Seen) -> None:
    (failed,) = (line for line in seen.lines if line.get("run_id") == seen.runs["runs"])
    assert failed["message"] == f"run {seen.runs['runs']} failed: ValueError"
    assert failed["trace_id"] == TRACES["runs"]
    assert SECRET not in json.dumps(seen.lines)
    ours = [each for each in seen.spans if each["name"].startswith("strandline.")]
    assert SECRET not in json.dumps(ours)

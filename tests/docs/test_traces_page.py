"""`docs/traces.md` names every span and attribute, and its log line is one that a server writes."""

import inspect
import json
import logging
import re
import shlex
import tomllib
from contextvars import copy_context
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from acceptance.server import serving
from docs.page_run import init
from docs.pages import ROOT, block, blocks, text
from strandline._engine.observers import CURRENT_RUN, CurrentRun
from strandline._logs import JsonFormatter
from strandline._model import RunId, session_key
from strandline._telemetry import traces

PAGE: Final = "traces.md"


def test_every_span_and_attribute_stands_on_the_page_and_no_other() -> None:
    code = inspect.getsource(traces)
    spans = {f"strandline.{name}" for name in re.findall(r'_part\("(\w+)"', code)}
    spans |= set(re.findall(r'start_span\("(strandline\.\w+)"', code))
    attributes = set(re.findall(r'"(strandline\.\w+|error\.type)"', code)) - spans
    assert len(spans) == 5
    assert len(attributes) == 5
    assert set(re.findall(r"strandline\.\w+", block(PAGE, "text"))) == spans - {"strandline.accept"}
    assert set(re.findall(r"^\| `((?:strandline|error)\.\w+)` \|", text(PAGE), re.MULTILINE)) == spans | attributes


def test_the_line_of_the_page_is_one_that_a_server_writes() -> None:
    (line_shown,) = blocks(PAGE, "json")
    shown = json.loads(line_shown)
    trace = {"traceparent": f"00-{shown['trace_id']}-b7ad6b7169203331-01"}
    run = CurrentRun(RunId(shown["run_id"]), session_key(shown["session_id"]), trace)

    def line() -> str:
        CURRENT_RUN.set(run)
        record = logging.LogRecord(shown["logger"], logging.WARNING, "x.py", 1, shown["message"], (), None)
        return JsonFormatter(details=False).format(record)

    written = json.loads(copy_context().run(line))
    assert written | {"time": shown["time"]} == shown
    assert list(written) == list(shown)
    assert re.sub(r"\d", "0", written["time"]) == re.sub(r"\d", "0", shown["time"])


def test_the_address_that_is_named_has_spans_sent_or_the_page_says_what_is_missing(tmp_path: Path) -> None:
    install, _, serve = block(PAGE, "sh", "jaegertracing").splitlines()
    assert "otel" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    variable, strandline, serves, *target = shlex.split(serve)
    assert [strandline, serves, *target] == ["strandline", "serve", *init(tmp_path)]
    with serving(*target, folder=tmp_path, variables=dict([variable.split("=")])) as server:
        server.chat("hello")
    has_exporter = bool(entry_points(group="opentelemetry_traces_exporter", name="otlp_proto_http"))
    assert has_exporter == (
        f"traces are not sent: exporter otlp_proto_http is not installed. Install it: {install}" not in server.stderr
    )

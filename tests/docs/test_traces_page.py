"""`docs/traces.md` names every span and attribute, and its log line is one that a server writes."""

import inspect
import json
import logging
import re
from contextvars import copy_context
from typing import Final

from docs.pages import DOCS, blocks
from strandline._engine.observers import CURRENT_RUN, CurrentRun
from strandline._logs import JsonFormatter
from strandline._model import RunId, session_key
from strandline._telemetry import export, traces

PAGE: Final = (DOCS / "traces.md").read_text()


def test_every_span_and_attribute_stands_on_the_page_and_no_other() -> None:
    code = inspect.getsource(traces)
    spans = {f"strandline.{name}" for name in re.findall(r'_part\("(\w+)"', code)}
    spans |= set(re.findall(r'start_span\("(strandline\.\w+)"', code))
    attributes = set(re.findall(r'"(strandline\.\w+|error\.type)"', code)) - spans
    assert len(spans) == 5
    assert len(attributes) == 5
    assert set(re.findall(r"^\| `((?:strandline|error)\.\w+)` \|", PAGE, re.MULTILINE)) == spans | attributes


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    assert f"{traces.LONGEST:,} characters" in PAGE
    assert f"for {export.FLUSH_S:g} seconds at most" in PAGE


def test_the_line_of_the_page_is_one_that_a_server_writes() -> None:
    (text,) = blocks("traces.md", "json")
    shown = json.loads(text)
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

"""A server's log: its forms, which run a line belongs to, and what it keeps to itself."""

import asyncio
import gc
import inspect
import json
import logging
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

import pytest
import uvloop

from strandline._engine.observers import CURRENT_RUN, CurrentRun
from strandline._logs import NOISY, JsonFormatter, TextFormatter, log_to_stderr
from strandline._model import ANONYMOUS, Carrier, Run, RunId, RunStatus, session_key
from strandline._printable import ERROR_IDS, Private
from strandline._telemetry.traces import Traces

STOPPED_IN_ITS_MIDDLE = """
import asyncio, gc
from strands import Agent
from strandline._logs import log_to_stderr
from strandline.testing import ScriptedModel

async def script(messages):
    return "hello"

async def main():
    stream = Agent(model=ScriptedModel(script), callback_handler=None).stream_async("hello")
    async for event in stream:
        if "event" in event:
            break
    await stream.aclose()
    gc.collect()  # closes what Strands has left open, each in a task of its own
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)

log_to_stderr(level=LEVEL)
asyncio.run(main())
"""


@pytest.mark.parametrize("level", ["info", "debug"])
def test_a_run_that_was_stopped_in_its_middle_logs_no_traceback_of_others(level: str) -> None:
    script = STOPPED_IN_ITS_MIDDLE.replace("LEVEL", repr(level))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ("Failed to detach context" in done.stderr) == (level == "debug"), done.stderr


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Return a function that sets a JSON log up, has something logged, and returns the lines."""
    root = logging.getLogger()
    before = {name: logging.getLogger(name).level for name in ("root", "strandline", ERROR_IDS, *NOISY)}
    hooks = threading.excepthook, sys.unraisablehook

    def lines(act: Callable[[], object], **settings: Any) -> list[dict[str, Any]]:
        log_to_stderr(**{"form": "json", **settings})
        act()
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    yield lines
    threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(False)
    for handler in [each for each in root.handlers if isinstance(each.formatter, JsonFormatter | TextFormatter)]:
        root.removeHandler(handler)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Logged = Callable[..., list[dict[str, Any]]]
LOG = logging.getLogger("strandline.test")


def test_a_json_log_is_one_object_a_line_with_control_characters_escaped(logged: Logged) -> None:
    [line] = logged(lambda: LOG.warning("one\ntwo \x1b[2J\u2028 %s", "ä"))
    at = datetime.fromisoformat(line.pop("time"))
    assert at.tzinfo is UTC
    assert abs(at.timestamp() - time.time()) < 60
    assert line == {"level": "warning", "logger": "strandline.test", "message": "one\ntwo \x1b[2J\u2028 ä"}


def test_a_line_names_its_server_if_several_share_the_log(logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    [line] = logged(lambda: LOG.warning("hello"), server=4711)
    assert line["server"] == 4711
    log_to_stderr(server=4711)
    LOG.warning("hello")
    assert capsys.readouterr().err.endswith(" WARNING strandline.test[4711]: hello\n")


def test_a_line_of_a_run_says_which(logged: Logged) -> None:
    traced = run_of("anna", {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})

    def act(run: Run) -> None:
        CURRENT_RUN.set(CurrentRun(run.run_id, run.key, run.trace))
        logging.getLogger("mine").warning("hello")

    for run, more in ((traced, {"principal": "anna", "trace_id": "0af7651916cd43dd8448eb211c80319c"}), (run_of(), {})):
        [line] = logged(lambda run=run: copy_context().run(act, run))
        assert {"run_id": "r", "session_id": "s", **more}.items() <= line.items()
        assert len(line) == 6 + len(more)


def run_of(principal: str = ANONYMOUS, trace: Carrier | None = None) -> Run:
    return Run(
        run_id=RunId("r"),
        key=session_key("s", principal=principal),
        input="secret",
        lane=3,
        priority=3,
        resumable=True,
        metadata={},
        sequence=0,
        status=RunStatus.RUNNING,
        attempt=1,
        created_at=0.0,
        trace=trace,
    )


def fail() -> None:
    try:
        try:
            raise KeyError("secret")
        except KeyError as error:
            raise ValueError("secret too") from error
    except ValueError:
        LOG.exception("it failed: %s", Private("ValueError: secret", "ValueError"))


def test_an_exception_is_one_field_and_says_nothing_unless_that_is_wanted(logged: Logged) -> None:
    [line] = logged(fail)
    assert "secret" not in json.dumps(line)
    assert line["message"] == "it failed: ValueError"
    assert re.fullmatch(r"ValueError\n  .*test_logs\.py:\d+ in fail\nKeyError\n  .*:\d+ in fail", line["exception"])
    [line] = logged(fail, details=True)
    assert line["message"] == "it failed: ValueError: secret"
    assert "secret too" in line["exception"]


class Raises:
    def __del__(self) -> None:
        raise ValueError("secret")


def raise_it(*said: str) -> None:
    raise ValueError("secret")


async def in_a_task() -> None:
    raise_it()


async def forget_a_task() -> None:
    task = asyncio.ensure_future(in_a_task())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()


async def call_soon() -> None:
    asyncio.get_running_loop().call_soon(raise_it, "secret")
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def in_a_thread() -> None:
    thread = threading.Thread(target=raise_it)
    thread.start()
    thread.join()


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_text_that_callers_have_an_id_for_is_in_every_log(
    capsys: pytest.CaptureFixture[str], logged: Callable[..., list[dict[str, Any]]], level: str, form: str
) -> None:
    log_to_stderr(level=level, form=form, details=False)
    logging.getLogger(ERROR_IDS).warning("run %s failed, shown as %s: %s", "run_1", "err_1", "ValueError: why")
    (line,) = capsys.readouterr().err.splitlines()
    assert "err_1: ValueError: why" in line


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    ("act", "message"),
    [
        (forget_a_task, "Task exception was never retrieved"),
        (call_soon, "Exception in callback"),
        (in_a_thread, "an exception has ended a thread"),
        (Raises, "an exception was raised where nothing can catch it"),
    ],
    ids=["a task", "a callback", "a thread", "nobody"],
)
def test_what_nobody_has_caught_is_a_line_without_a_word_of_what_it_says(
    logged: Logged, act: Callable[[], Any], message: str, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    def uncaught() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            if inspect.iscoroutinefunction(act):
                runner.run(act())
            else:
                act()

    [line] = logged(uncaught)
    assert "secret" not in json.dumps(line)
    assert line["message"] == message
    assert re.match(r"ValueError\n  .*test_logs\.py:\d+ in (raise_it|__del__)", line["exception"])
    [line] = logged(uncaught, details=True)
    assert "ValueError: secret" in line["exception"]


def test_pythons_own_warnings_are_lines_of_a_json_log(logged: Logged) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        [line] = logged(lambda: warnings.warn("old", DeprecationWarning, stacklevel=1))
    assert "old" in line["message"]


@pytest.mark.parametrize(("level", "seen"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_says_what_is_worth_a_line(logged: Logged, level: str, seen: int) -> None:
    def act() -> None:
        for each in (LOG.debug, LOG.info, LOG.warning, LOG.error):
            each("line")

    assert len(logged(act, level=level)) == seen


def test_lines_for_people_show_what_happened_and_cannot_control_their_terminal(
    logged: Logged, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr()
    LOG.warning("one \x1b[2J\x9b %s", Private("ValueError: why", "ValueError"))
    assert capsys.readouterr().err.endswith(" WARNING strandline.test: one \\x1b[2J\\x9b ValueError: why\n")


def test_no_text_that_is_quoted_can_look_like_another_line(logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    """What an agent raises may be what somebody has sent."""
    forged = "no\n2026-01-01 00:00:00,000 ERROR strandline: the journal is damaged"
    log_to_stderr()
    try:
        raise ValueError(forged)
    except ValueError:
        LOG.exception("it failed: %s", forged)
    first, *others = capsys.readouterr().err.splitlines()
    assert first.endswith(" ERROR strandline.test: it failed: no")
    assert others[0] == "  2026-01-01 00:00:00,000 ERROR strandline: the journal is damaged"
    assert all(each.startswith("  ") for each in others)


def test_what_strangers_write_into_a_trace_fills_no_log(logged: Logged) -> None:
    def act() -> None:
        traces = Traces()
        for name, value in (
            ("tracestate", "A B=secret"),
            ("tracestate", "a=1," * 40),
            ("baggage", "a=%zz;;;,=,secret"),
        ):
            traces.arrived([(b"traceparent", TRACEPARENT.encode()), (name.encode(), value.encode())])
            with traces.request_trace() as carrier:
                assert carrier is not None
                assert carrier["traceparent"] == TRACEPARENT

    assert logged(act) == []
    assert logged(act, level="debug"), "a search for the id finds it"

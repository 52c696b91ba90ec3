"""A run as spans, in the trace of its request: with the real SDK, real Strands agents and agents in another thread."""

import asyncio
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from strands import Agent, tool

import strands_support
import target_support
from engine_support import key
from logged import ours
from strandline._agents.function import FunctionTarget, Session
from strandline._clock import SystemClock
from strandline._engine.admission import Ticket
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import RunQuery
from strandline._model import Carrier, Outcome
from strandline._scripted.model import call
from strandline._telemetry.traces import LONGEST, Traces
from strandline.errors import QueueFull
from strandline.testing import Gate, ScriptedModel

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
PARENT: Final = "b7ad6b7169203331"
TRACEPARENT: Final = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Have an SDK for the time of one test: OpenTelemetry lets a process have one for its whole life only."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    monkeypatch.setattr("strands.telemetry.tracer._tracer_instance", None)
    yield exporter
    provider.shutdown()


@tool
def look() -> str:
    """Look."""
    with trace.get_tracer("mine").start_as_current_span("mine"):
        return "seen"


def make_agent() -> Agent:
    async def script(messages: Any) -> Any:
        return "done" if "toolResult" in messages[-1]["content"][0] else [call("look")]

    return Agent(model=ScriptedModel(script), tools=[look], callback_handler=None)


async def submit(
    service: Service, traces: Traces, text: str = "secret", *headers: tuple[str, str], **more: Any
) -> Ticket:
    """Ask as an adapter does that answers a request with these headers."""

    async def ask() -> Ticket:
        traces.arrived([(name.encode(), value.encode()) for name, value in headers])
        return await service.submit(Request(key=key(), input=text, **more))

    return await asyncio.create_task(ask())


async def ended(ticket: Ticket) -> Outcome:
    end = await asyncio.wait_for(ticket.outcome(), 20)
    assert isinstance(end, Outcome)
    return end


def tree(spans: list[ReadableSpan]) -> dict[str, str | None]:
    """Return the name of each span's parent, None if that is none of these."""
    names = {each.context.span_id: each.name for each in spans if each.context}
    return {each.name: names.get(each.parent.span_id) if each.parent else None for each in spans}


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [each for each in spans.get_finished_spans() if each.name == name]


async def finished_spans(spans: InMemorySpanExporter, name: str, count: int = 1) -> list[ReadableSpan]:
    """Return the spans of that name, once there are `count`: they end a moment after the client gets its answer."""
    async with asyncio.timeout(10):
        while len(found := named(spans, name)) < count:
            await asyncio.sleep(0)
    return found


def test_the_whole_tree_of_a_run_of_a_strands_agent(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    """From the request to the tool's own span, which is made in a thread."""

    async def main() -> str:
        traces = Traces()
        async with strands_support.serving(make_agent, tmp_path, tracing=traces) as service:
            ticket = await submit(service, traces, "secret", ("traceparent", TRACEPARENT))
            await ended(ticket)
            await finished_spans(spans, "strandline.run")
        return ticket.run_id

    run_id = asyncio.run(main())
    found = spans.get_finished_spans()
    assert {trace.format_trace_id(each.context.trace_id) for each in found if each.context} == {TRACE}
    parents = tree(list(found))
    assert parents.pop("strandline.run") is None
    (run,) = named(spans, "strandline.run")
    assert run.parent is not None
    assert (trace.format_span_id(run.parent.span_id), run.kind) == (PARENT, trace.SpanKind.CONSUMER)
    assert parents == {
        "strandline.wait": "strandline.run",
        "strandline.execute": "strandline.run",
        "invoke_agent Strands Agents": "strandline.execute",
        "execute_event_loop_cycle": parents["execute_event_loop_cycle"],
        "chat": "execute_event_loop_cycle",
        "execute_tool look": "execute_event_loop_cycle",
        "mine": "execute_tool look",
        "strandline.commit": "strandline.run",
    }
    assert dict(run.attributes or {}) == {
        "strandline.run_id": run_id,
        "strandline.session_id": "s",
        "strandline.attempt": 1,
        "strandline.status": "succeeded",
    }
    ours = [each for each in found if each.name.startswith("strandline.")]
    assert "secret" not in "".join(each.to_json() for each in ours)
    wait, execute, commit = (named(spans, f"strandline.{part}")[0] for part in ("wait", "execute", "commit"))
    times = [run.start_time, wait.start_time, wait.end_time, execute.start_time, execute.end_time]
    times += [commit.start_time, commit.end_time, run.end_time]
    assert times == sorted(times, key=lambda each: each or 0)


def test_strands_texts_of_the_conversation_can_be_left_out(
    spans: InMemorySpanExporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_unredacted_attributes=")

    async def main() -> None:
        traces = Traces()
        async with strands_support.serving(make_agent, tmp_path, tracing=traces) as service:
            await ended(await submit(service, traces))
            await finished_spans(spans, "strandline.run")

    asyncio.run(main())
    all_of_them = "".join(each.to_json() for each in spans.get_finished_spans())
    assert "REDACTED" in all_of_them
    assert "secret" not in all_of_them


def test_a_request_without_a_trace_begins_one(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    async def main() -> None:
        traces = Traces()
        async with strands_support.serving(make_agent, tmp_path, tracing=traces) as service:
            await ended(await submit(service, traces))
            await finished_spans(spans, "strandline.run")

    asyncio.run(main())
    parents = tree(list(spans.get_finished_spans()))
    assert (parents["strandline.accept"], parents["strandline.run"]) == (None, "strandline.accept")


async def fails(message: str, session: Session) -> str:
    raise ValueError(f"what about {message}")


def test_a_run_that_fails_says_its_code_and_no_more(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    async def main() -> None:
        traces = Traces()
        async with target_support.serving(FunctionTarget(fails, description="f"), tmp_path, tracing=traces) as service:
            await ended(await submit(service, traces))
            await finished_spans(spans, "strandline.run")

    asyncio.run(main())
    (run,) = named(spans, "strandline.run")
    assert run.attributes is not None
    assert (run.attributes["strandline.status"], run.attributes["error.type"]) == ("failed", "agent_error")
    assert (run.status.status_code, run.status.description) == (trace.StatusCode.ERROR, "agent_error")
    assert "secret" not in "".join(each.to_json() for each in spans.get_finished_spans())


def test_runs_that_end_while_they_wait_and_requests_that_are_refused(
    spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    gate = Gate()

    async def waits(message: str, session: Session) -> str:
        await gate.wait()
        return "done"

    async def main() -> None:
        traces, target = Traces(), FunctionTarget(waits, description="f")
        async with target_support.serving(target, tmp_path, tracing=traces, max_queued_per_session=1) as service:
            first = await submit(service, traces)
            waiting = await submit(service, traces, "x", ("traceparent", TRACEPARENT))
            with pytest.raises(QueueFull):
                await submit(service, traces)
            await service.cancel(key().principal, waiting.run_id)
            (run,) = await finished_spans(spans, "strandline.run")
            assert run.attributes is not None
            assert (run.attributes["strandline.status"], run.attributes["strandline.attempt"]) == ("cancelled", 0)
            assert run.context is not None
            assert trace.format_trace_id(run.context.trace_id) == TRACE
            assert tree([*named(spans, "strandline.wait"), run])["strandline.wait"] is not None
            refused = named(spans, "strandline.accept")[-1]
            assert refused.attributes is not None
            assert refused.attributes["error.type"] == "queue_full"
            gate.open()
            await ended(first)

    asyncio.run(main())


def test_a_run_that_goes_on_in_a_later_process_is_in_the_same_trace(
    spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    """Its spans belong to a new attempt: its wait is recorded once."""
    hold = Gate()
    between: list[float] = []

    async def main() -> None:
        journal, traces = MemoryJournal(SystemClock()), Traces()

        def held() -> Agent:
            async def script(messages: Any) -> Any:
                await hold.wait()
                return "done"

            return Agent(model=ScriptedModel(script), callback_handler=None)

        async with strands_support.serving(held, tmp_path, journal, tracing=traces) as service:
            await submit(service, traces, "x", ("traceparent", TRACEPARENT))
            await hold.reached.wait()
            later = await submit(service, traces, "y", ("traceparent", TRACEPARENT))
        hold.open()
        between.append(SystemClock().now())
        async with strands_support.serving(held, tmp_path, journal, tracing=traces) as service:
            await service.wait(key().principal, later.run_id, 20)
            await finished_spans(spans, "strandline.run", 2)

    asyncio.run(main())
    runs = named(spans, "strandline.run")
    attempts = [(each.attributes or {})["strandline.attempt"] for each in runs]
    assert attempts == [2, 1]
    assert {trace.format_trace_id(each.context.trace_id) for each in runs if each.context} == {TRACE}
    assert len(named(spans, "strandline.wait")) == 2
    (again, waited) = (each.start_time or 0 for each in runs)
    assert waited < between[0] * 1e9 <= again, "what was taken up begins then, what had waited when it was accepted"


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ([("traceparent", TRACEPARENT)], {"traceparent": TRACEPARENT}),
        (
            [("traceparent", TRACEPARENT), ("tracestate", "a=1"), ("baggage", "user=42"), ("x-other", "1")],
            {"traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "user=42"},
        ),
        (
            [("traceparent", TRACEPARENT), ("tracestate", "a=1"), ("tracestate", "b=2")],
            {"traceparent": TRACEPARENT, "tracestate": "a=1,b=2"},
        ),
        (
            [("x-amzn-trace-id", f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={PARENT};Sampled=1")],
            {"traceparent": TRACEPARENT},
        ),
        ([("x-amzn-trace-id", f"Root=1-{TRACE[:8]}-{TRACE[8:]}")], None),
        ([("x-amzn-trace-id", "Root=1-what;Parent=that")], None),
        ([("traceparent", TRACEPARENT)] * 2, None),
        ([("traceparent", "00-" + "0" * 32 + f"-{PARENT}-01")], None),
        ([("traceparent", "what\x1b[2J")], None),
        ([("traceparent", TRACEPARENT + "-" + "x" * LONGEST)], None),
        (
            [("traceparent", TRACEPARENT), ("tracestate", "a=" + "x" * LONGEST), ("baggage", "b=" + "x" * LONGEST)],
            {"traceparent": TRACEPARENT},
        ),
        (  # (each of them is short enough)
            [("traceparent", TRACEPARENT), *[("baggage", f"{name}=" + "x" * (LONGEST - 10)) for name in "ab"]],
            {"traceparent": TRACEPARENT},
        ),
        ([("x-amzn-trace-id", f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={'0' * 16}")], None),
        ([("baggage", "user=42")], None),
        ([], None),
    ],
)
def test_what_is_kept_of_the_headers_of_a_request(
    headers: list[tuple[str, str]], kept: Carrier | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without an SDK: nothing but what is well formed and not too long; no warning appears."""

    async def main() -> Carrier | None:
        journal, traces = MemoryJournal(SystemClock()), Traces()

        async def answers(message: str, session: Session) -> str:
            return "done"

        target = FunctionTarget(answers, description="f")
        async with target_support.serving(target, tmp_path, journal, tracing=traces) as service:
            ticket = await submit(service, traces, "x", *headers)
            await ended(ticket)
            run = await journal.read(RunQuery(key().principal, ticket.run_id))
            assert run is not None
            return run.trace

    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        assert asyncio.run(main()) == kept
    assert ours(caplog) == []


def test_without_an_sdk_a_tool_can_pass_the_trace_on(tmp_path: Path) -> None:
    """Also from its own thread, whichever loop takes the call."""
    passed: list[Carrier] = []

    def call_out() -> None:
        carrier: Carrier = {}
        propagate.inject(carrier)
        passed.append(carrier)

    async def answers(message: str, session: Session) -> str:
        call_out()
        await asyncio.to_thread(call_out)
        await asyncio.get_running_loop().run_in_executor(None, call_out)
        return "done"

    async def main() -> None:
        traces, target = Traces(), FunctionTarget(answers, description="f")
        async with target_support.serving(target, tmp_path, tracing=traces) as service:
            await ended(await submit(service, traces, "x", ("traceparent", TRACEPARENT), ("baggage", "user=42")))
            await ended(await submit(service, traces, "y"))

    asyncio.run(main())
    assert passed == [{"traceparent": TRACEPARENT, "baggage": "user=42"}] * 3 + [{}] * 3


def test_the_span_that_is_current_counts_before_the_headers(spans: InMemorySpanExporter) -> None:
    traces = Traces()
    traces.arrived([(b"traceparent", TRACEPARENT.encode())])
    with trace.get_tracer("mine").start_as_current_span("mine", Context()) as span, traces.request_trace() as carrier:
        assert carrier is not None
        assert carrier["traceparent"].split("-")[2] == trace.format_span_id(span.get_span_context().span_id)
    traces.arrived(())


def test_a_run_never_gets_the_context_of_the_code_that_woke_its_loop(
    spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    """Many runs at once, each requested within another span: no agent or thread of one sees another's."""
    seen: dict[str, int] = {}

    def current() -> int:
        return trace.get_current_span().get_span_context().trace_id

    async def answers(message: str, session: Session) -> str:
        seen[message] = current()
        assert await asyncio.get_running_loop().run_in_executor(None, current) == seen[message]
        return "done"

    async def main() -> dict[str, int]:
        traces, target = Traces(), FunctionTarget(answers, description="f")
        contexts: dict[str, int] = {}

        async def ask(service: Service, name: str) -> None:
            with trace.get_tracer("mine").start_as_current_span("mine", Context()) as span:
                contexts[name] = span.get_span_context().trace_id
                run = await ended(await service.submit(Request(key=key(name), input=name)))
                assert run.output == "done", run.error

        async with target_support.serving(target, tmp_path, tracing=traces) as service:
            await asyncio.gather(*(ask(service, f"s{n}") for n in range(50)))
        return contexts

    assert asyncio.run(main()) == seen

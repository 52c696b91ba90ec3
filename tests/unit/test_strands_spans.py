"""What Strands writes of a conversation into its spans: nothing where nobody records them, else everything."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from strands import Agent
from strands.telemetry import tracer

from strandline._agents.load import target_for
from strandline.testing import ScriptedModel

SECRET = "the words that were said"
PROMPT = "the prompt of the agent"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what is written as JSON into spans."""
    seen: list[Any] = []
    written = tracer.serialize

    def serialize(thing: Any) -> str:
        seen.append(thing)
        return written(thing)

    monkeypatch.setattr(tracer, "serialize", serialize)
    monkeypatch.setattr(tracer, "_tracer_instance", None)
    return seen


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return what sets up an SDK for the time of one test."""
    made: list[TracerProvider] = []

    def set_up(exporter: InMemorySpanExporter, **options: Any) -> None:
        made.append(TracerProvider(shutdown_on_exit=False, **options))
        made[-1].add_span_processor(SimpleSpanProcessor(exporter))
        monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", made[-1])

    yield set_up
    for each in made:
        each.shutdown()


def talk() -> None:
    """Have an agent say something, made after something of Strandline serves agents."""

    def make() -> Agent:
        return Agent(model=ScriptedModel(lambda messages: "yes"), system_prompt=PROMPT, callback_handler=None)

    target_for(make, "test")
    asyncio.run(make().invoke_async(SECRET))


def of_conversation(written: list[Any]) -> list[str]:
    return [text for thing in written if SECRET in (text := json.dumps(thing)) or PROMPT in text]


def test_without_an_sdk_no_conversation_is_written_as_json(written: list[Any]) -> None:
    talk()
    assert of_conversation(written) == []


def test_a_trace_that_is_not_sampled_has_no_conversation_written(written: list[Any], provider: Any) -> None:
    exporter = InMemorySpanExporter()
    provider(exporter, sampler=ALWAYS_OFF)
    talk()
    assert of_conversation(written) == []
    assert exporter.get_finished_spans() == ()


def test_a_span_that_is_recorded_has_prompt_and_conversation(written: list[Any], provider: Any) -> None:
    exporter = InMemorySpanExporter()
    provider(exporter)
    talk()
    (model,) = [span for span in exporter.get_finished_spans() if span.name == "chat"]
    said = json.dumps([dict(event.attributes or {}) for event in model.events])
    assert SECRET in said
    assert PROMPT in said
    assert of_conversation(written)

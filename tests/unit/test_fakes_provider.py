"""The fake provider works for the real OpenAI client and a real agent."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import openai
import pytest
from strands import Agent, tool
from strands.models.openai import OpenAIModel
from strands.types.exceptions import ModelThrottledException

from fakes.provider import Cut, Provider, ReceivedRequest, Refusal, Reply, ToolCall, Wait, throttled
from strandline.testing import Gate, fast_retries

T = TypeVar("T")

# Which exception it is depends on the version of the client.
CUT = r"Connection error|peer closed|incomplete"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def agent(provider: Provider) -> Agent:
    model = OpenAIModel(client_args=provider.client_args, model_id="fake")
    return Agent(model=model, tools=[add], callback_handler=None, retry_strategy=fast_retries())


def run(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(bounded())


def ask(provider: Provider, question: str = "hello") -> str:
    return str(run(agent(provider).invoke_async(question))).strip()


async def listen(subject: Agent, seen: list[str]) -> None:
    async for event in subject.stream_async("hello"):
        if "data" in event:
            seen.append(event["data"])


def test_a_text_arrives_word_by_word_with_usage() -> None:
    seen: list[str] = []
    with Provider("One two  three.\n") as provider:
        subject = agent(provider)
        run(listen(subject, seen))
    assert seen == ["One", " two", "  three.\n"]
    assert dict(subject.event_loop_metrics.accumulated_usage) == {
        "inputTokens": 1,
        "outputTokens": 1,
        "totalTokens": 2,
    }


def test_replies_come_in_order_and_then_the_script_answers() -> None:
    with Provider("first", script=lambda received: f"You said {received.question}") as provider:
        provider.then("second")
        subject = agent(provider)
        answers = [str(run(subject.invoke_async(text))).strip() for text in ("a", "b", "c")]
    assert answers == ["first", "second", "You said c"]
    assert [received.roles for received in provider.requests] == [
        ["user"],
        ["user", "assistant", "user"],
        ["user", "assistant", "user", "assistant", "user"],
    ]


def test_a_tool_round_goes_there_and_back() -> None:
    def script(received: ReceivedRequest) -> Reply:
        if received.roles[-1] == "tool":
            texts = [message["content"] for message in received.messages if message["role"] == "tool"]
            return f"The sums are {texts}"
        return ["Let me see. ", ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": 20, "b": 30})]

    with Provider(script=script) as provider:
        answer = ask(provider)
    assert "3" in answer
    assert "50" in answer
    assert [tool["function"]["name"] for tool in provider.requests[0].body["tools"]] == ["add"]
    sent = provider.requests[1].messages[1]["tool_calls"]
    assert [call["id"] for call in sent] == ["call-1-0", "call-1-1"]


def test_a_stream_waits_at_a_gate() -> None:
    async def scenario() -> None:
        gate = Gate()
        seen: list[str] = []
        with Provider(["Before", Wait(gate), " after"]) as provider:
            async with asyncio.TaskGroup() as group:
                group.create_task(listen(agent(provider), seen))
                await gate.reached.wait()
                while not seen:  # sent, but maybe not yet read
                    await asyncio.sleep(0)
                assert seen == ["Before"]
                gate.open()
            assert seen == ["Before", " after"]

    run(scenario())


def test_429_is_throttling_which_is_tried_again() -> None:
    with Provider(throttled(), throttled(), "at last") as provider:
        assert ask(provider) == "at last"
        assert len(provider.requests) == 3
    with Provider(script=lambda _: throttled()) as provider:
        with pytest.raises(ModelThrottledException):
            ask(provider)
        assert len(provider.requests) == 3


def test_500_is_an_error_which_is_not_tried_again() -> None:
    with Provider(Refusal(500, "out of order"), "never requested") as provider:
        with pytest.raises(openai.InternalServerError, match="out of order"):
            ask(provider)
        assert len(provider.requests) == 1


def test_a_cut_stream_is_an_error_after_what_was_sent() -> None:
    seen: list[str] = []
    with (
        Provider(["Half of it", Cut(), "never sent"]) as provider,
        pytest.raises(Exception, match=CUT),
    ):
        run(listen(agent(provider), seen))
    assert seen == ["Half", " of", " it"]


def test_a_request_without_a_reply_is_refused_with_the_reason() -> None:
    with Provider() as provider, pytest.raises(openai.BadRequestError, match="no reply for request 1"):
        ask(provider)


def test_without_streaming_the_answer_comes_whole() -> None:
    with Provider(["Hi ", ToolCall("add", {"a": 1, "b": 2})]) as provider:
        client = openai.OpenAI(**provider.client_args)
        with client:
            answer = client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hello"}])
            assert [model.id for model in client.models.list()] == ["fake"]
    assert answer.choices[0].message.content == "Hi "
    assert answer.choices[0].finish_reason == "tool_calls"


def test_an_open_stream_does_not_keep_the_provider_from_stopping() -> None:
    async def scenario() -> None:
        gate = Gate()
        with Provider([Wait(gate)]) as provider:
            hanging = asyncio.create_task(listen(agent(provider), []))
            await gate.reached.wait()
        with pytest.raises(Exception, match=CUT):
            await hanging

    run(scenario())

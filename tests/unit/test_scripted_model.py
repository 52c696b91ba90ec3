"""The scripted model behaves like a provider of Strands, as a real agent sees it."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel
from strands import Agent, tool
from strands.types.content import Messages
from strands.types.exceptions import EventLoopException, MaxTokensReachedException, ModelThrottledException

from strandline.testing import (
    Answer,
    Gate,
    Script,
    ScriptedModel,
    call,
    fast_retries,
    in_turn,
    pause,
    question,
    results,
    say,
    stop,
    think,
)


@tool
def shout(text: str) -> str:
    """Return the text in capitals."""
    return text.upper()


def agent(script: Script, **options: Any) -> Agent:
    model = ScriptedModel(script, chunk_size=4)
    return Agent(model=model, tools=[shout], callback_handler=None, retry_strategy=fast_retries(), **options)


T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(10):
            return await work

    return asyncio.run(bounded())


async def pieces(subject: Agent, prompt: str) -> list[str]:
    return [event["data"] async for event in subject.stream_async(prompt) if "data" in event]


@pytest.mark.parametrize(
    "script", [in_turn(call("shout", {"text": "ab"}), say("Done.")), in_turn([call("shout", {"text": "ab"})], "Done.")]
)
def test_a_part_alone_is_an_answer_like_a_list_with_it(script: Script) -> None:
    subject = agent(script)
    assert str(run(subject.invoke_async("go"))) == "Done.\n"
    assert [*results(subject.messages[:3]).values()] == ["AB"]


def test_a_text_is_streamed_in_chunks_and_ends_the_turn() -> None:
    subject = agent(lambda messages: f"You said {question(messages)}.")
    assert run(pieces(subject, "hello")) == ["You ", "said", " hel", "lo."]
    assert subject.messages[-1]["role"] == "assistant"
    assert subject.messages[-1]["content"] == [{"text": "You said hello."}]


def test_a_result_has_its_stop_reason_and_usage() -> None:
    result = run(agent(lambda _: "12345678").invoke_async("hello"))
    assert result.stop_reason == "end_turn"
    invocation = result.metrics.latest_agent_invocation
    assert invocation is not None
    assert dict(invocation.usage) == {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}


def test_a_tool_is_called_with_its_input_and_its_result_comes_back() -> None:
    def script(messages: Messages) -> Answer:
        if found := results(messages):
            return " and ".join(found.values())
        return [say("Wait. "), call("shout", {"text": "a"}), call("shout", {"text": 'b "é"'})]

    subject = agent(script)
    result = run(subject.invoke_async("both"))
    assert str(result).strip() == 'A and B "É"'
    assert [message["role"] for message in subject.messages] == ["user", "assistant", "user", "assistant"]
    assert [next(iter(block)) for block in subject.messages[1]["content"]] == ["text", "toolUse", "toolUse"]


def test_tool_use_ids_depend_on_the_conversation_alone() -> None:
    def script(messages: Messages) -> Answer:
        if results(messages):
            return "done"
        return [call("shout", {"text": "a"}), call("shout", {"text": "a"}), call("shout", {"text": "a"}, "mine")]

    async def ids(prompts: list[str]) -> list[str]:
        subject = agent(script)
        for prompt in prompts:
            await subject.invoke_async(prompt)
        blocks = [block for message in subject.messages for block in message["content"]]
        return [block["toolUse"]["toolUseId"] for block in blocks if "toolUse" in block]

    first = run(ids(["go", "go"]))
    assert run(ids(["go", "go"])) == first
    assert first[2] == first[5] == "mine"
    assert len({*first}) == 5


def test_a_raising_script_is_a_failing_provider() -> None:
    subject = agent(in_turn(ValueError("no such model"), "better now"))
    with pytest.raises(ValueError, match="no such model"):
        run(subject.invoke_async("hello"))


def test_an_exception_in_an_answer_breaks_the_stream_there() -> None:
    subject = agent(in_turn(["Half of", ConnectionError("cut")]))
    seen: list[str] = []

    async def listen() -> None:
        async for event in subject.stream_async("hello"):
            if "data" in event:
                seen.append(event["data"])

    with pytest.raises((ConnectionError, EventLoopException), match="cut"):
        run(listen())
    assert seen == ["Half", " of"]


def test_fast_retries_try_a_throttled_call_again_at_once() -> None:
    subject = agent(in_turn(ModelThrottledException("slow down"), "better now"))
    assert str(run(subject.invoke_async("hello"))).strip() == "better now"
    subject = agent(in_turn(*[ModelThrottledException("slow down")] * 3))
    with pytest.raises(ModelThrottledException):
        run(subject.invoke_async("hello"))


def test_a_stop_reason_of_ones_own() -> None:
    subject = agent(in_turn(["As long as ", stop("max_tokens"), "never said"]))
    with pytest.raises(MaxTokensReachedException):
        run(subject.invoke_async("hello"))


def test_reasoning_is_streamed_apart_from_text() -> None:
    subject = agent(in_turn([think("Hmm, well."), say("Yes.")]))

    async def listen() -> tuple[str, str]:
        thought = said = ""
        async for event in subject.stream_async("hello"):
            thought += event.get("reasoningText", "")
            said += event.get("data", "")
        return thought, said

    assert run(listen()) == ("Hmm, well.", "Yes.")


def test_a_pause_holds_the_model_between_two_chunks() -> None:
    async def scenario() -> None:
        gate = Gate()
        subject = agent(in_turn(["Before ", pause(gate), "after"]))
        seen: list[str] = []

        async def listen() -> None:
            async for event in subject.stream_async("hello"):
                if "data" in event:
                    seen.append(event["data"])

        async with asyncio.TaskGroup() as group:
            group.create_task(listen())
            await gate.reached.wait()
            assert "".join(seen) == "Before "
            gate.open()
        assert "".join(seen) == "Before after"

    run(scenario())


def test_an_async_script_can_wait_and_a_gate_works_between_threads() -> None:
    gate = Gate()

    async def script(messages: Messages) -> Answer:
        await gate.wait()
        return "opened"

    subject = agent(script)
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(str(run(subject.invoke_async("hello"))).strip()))
    thread.start()
    gate.reached.block()
    assert not answers
    gate.open()
    thread.join(10)
    assert answers == ["opened"]


def test_a_cancelled_wait_leaves_the_gate_usable() -> None:
    async def scenario() -> None:
        gate = Gate()
        waiting = asyncio.create_task(gate.wait())
        await gate.reached.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.open()
        await gate.wait()

    run(scenario())


def test_a_gate_that_stays_shut_fails_the_thread_that_blocks_on_it() -> None:
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        Gate().block(deadline_s=0.01)


def test_structured_output_is_the_script_s_json() -> None:
    class Person(BaseModel):
        name: str

    async def scenario() -> list[dict[str, Any]]:
        model = ScriptedModel(in_turn('{"name": "Ada"}'))
        return [event async for event in model.structured_output(Person, [])]

    assert run(scenario()) == [{"output": Person(name="Ada")}]


def test_the_configuration_is_kept_and_calls_are_counted() -> None:
    model = ScriptedModel(in_turn("a", "b"), model_id="mine")
    model.update_config(temperature=0)
    assert model.get_config() == {"model_id": "mine", "temperature": 0}
    run(Agent(model=model, callback_handler=None).invoke_async("hello"))
    assert model.calls == 1
    with pytest.raises(ValueError, match="chunk_size"):
        ScriptedModel(in_turn(), chunk_size=0)


def test_a_script_with_too_few_answers_says_so() -> None:
    with pytest.raises(AssertionError, match="more often than it has answers"):
        run(agent(in_turn()).invoke_async("hello"))


def test_importing_the_package_imports_no_agent_framework() -> None:
    code = "import sys, strandline.testing; sys.exit('strands' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""A model provider that misbehaves, over HTTP and through Strands' own client: the run ends, the queue continues."""

from collections.abc import Iterator

import pytest

from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, tool_results
from fakes.provider import Cut, Provider, ReceivedRequest, Refusal, Reply, ToolCall, Wait, throttled
from strandline.testing import Gate

STOPPED_EARLY = "(This run ended early: agent_error.)"


def answer(request: ReceivedRequest) -> Reply:
    return Refusal(500) if "please fail" in request.question else f"answer to {request.question}"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(script=answer) as made:
        yield made


@pytest.fixture(scope="module")
def server(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("provider")
    with serving(TARGETS / "provider.py", folder=folder, variables={"PROVIDER_URL": provider.url}) as made:
        yield made


WEATHER = [ToolCall("weather", {"city": "Rome"})]

FAILURES: dict[str, list[Reply]] = {
    # The replies up to the one that ends the run; throttling is tried twice by the agent's own strategy.
    "429 for good": [throttled(), throttled()],
    "500": [Refusal(500)],
    "503": [Refusal(503)],
    "cut before anything": [[Cut()]],
    "cut in the text": [["The answer is", Cut()]],
    "cut after a tool was requested": [[*WEATHER, Cut()]],
    "429 after a tool": [WEATHER, throttled(), throttled()],
    "500 after a tool": [WEATHER, Refusal(500)],
    "cut in the text after a tool": [WEATHER, ["It is", Cut()]],
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_provider_that_fails(server: Server, provider: Provider, what: str) -> None:
    """The run ends as failed, what was done and said is kept, and the next run works, as does one that waited."""
    session = what.replace(" ", "-")
    provider.then(*FAILURES[what])
    reply = server.chat("first", session)
    assert (reply["status"], reply["error_code"]) == ("error", "agent_error")
    assert reply["response"]
    assert server.chat("second", session)["response"] == "answer to second"

    messages = server.history(session)
    assert texts(messages, "user") == ["first", "second"]
    last = FAILURES[what][-1]
    partial = "" if isinstance(last, Refusal) else "".join(part for part in last if isinstance(part, str))
    said = "\n".join(filter(None, (partial, STOPPED_EARLY, reply["response"])))
    assert texts(messages, "assistant") == [said, "answer to second"]
    used = FAILURES[what][0] is WEATHER
    assert tool_results(messages) == (["sunny in Rome"] if used else [])
    # The provider was given, for the second question, a conversation that it accepts.
    assert provider.requests[-1].roles == (
        ["user", "assistant", "tool", "assistant", "user"] if used else ["user", "assistant", "user"]
    )


def test_a_provider_that_throttles_once(server: Server, provider: Provider) -> None:
    """The agent's own retry strategy counts: nobody notices, and nothing is in history twice."""
    provider.then(throttled())
    assert server.chat("first", "throttled")["response"] == "answer to first"
    provider.then(WEATHER, throttled())
    assert server.chat("second", "throttled")["response"] == "answer to second"
    messages = server.history("throttled")
    assert texts(messages, "user") == ["first", "second"]
    assert tool_results(messages) == ["sunny in Rome"]


def test_a_failure_in_the_middle_of_a_queue(server: Server, provider: Provider) -> None:
    """Those that wait behind a failing run are answered, and what the provider is given stays valid."""
    gate = Gate()
    provider.then([Wait(gate), "answer to line-0"])
    requests = server.line_up("line-0", "line-1", "line-2 please fail", "line-3", session_id="line")
    gate.open()
    answers = [each.result(DEADLINE_S).json() for each in requests]
    assert [each["status"] for each in answers] == ["success", "success", "error", "success"]
    assert [each["response"] for each in answers if each["status"] == "success"] == [
        "answer to line-0", "answer to line-1", "answer to line-3"
    ]  # fmt: skip
    assert texts(server.history("line"), "user") == ["line-0", "line-1", "line-2 please fail", "line-3"]
    assert provider.requests[-1].roles == ["user", "assistant"] * 3 + ["user"]

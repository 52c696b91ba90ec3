"""History as `strandline chat` reads it."""

from typing import Any

from strandline._chat.turns import ToolCall, Turn, brief, turns_of


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"text": text}]}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def use(name: str, **arguments: Any) -> dict[str, Any]:
    return {"toolUse": {"toolUseId": f"id-{name}", "name": name, "input": arguments}}


def result(name: str, text: str, status: str = "success") -> dict[str, Any]:
    return {"toolResult": {"toolUseId": f"id-{name}", "status": status, "content": [{"text": text}]}}


def test_a_turn_is_a_question_and_all_until_the_next() -> None:
    tools = {"role": "user", "content": [result("add", "3"), result("sub", "no", "error")]}
    turns = turns_of(
        [
            assistant({"text": "the end of a turn whose question is not here"}),
            user("one"),
            assistant({"text": "Let me see."}, use("add", a=1), use("sub")),
            tools,
            assistant({"text": "It is"}, {"text": "3."}),
            user("two"),
        ]
    )
    assert turns == [
        Turn(
            "one",
            ["Let me see.", ToolCall("add", {"a": 1}, "3"), ToolCall("sub", {}, "no", failed=True), "It is", "3."],
        ),
        Turn("two"),
    ]


def test_a_call_is_one_line() -> None:
    assert brief(ToolCall("f", {"a": "é\n", "b": [1]}, "two\nlines")) == 'f(a="é\\n", b=[1]) -> two lines'
    assert brief(ToolCall("f", {"a": "x" * 99}, "seen")) == f'f(a="{"x" * 37}...) -> seen'
    assert brief(ToolCall("f", {}, None)) == "f() -> (no result)"
    assert brief(ToolCall("f", {}, "why", failed=True)) == "f() -> failed: why"

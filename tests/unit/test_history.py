"""Each way in which a run is closed, word for word."""

from collections.abc import Sequence
from typing import Any

import pytest

from strandline._history import (
    DISMISSED,
    UNKNOWN_OUTCOME,
    Progress,
    answer_text,
    close,
    close_answer,
    dismissed,
    ended_early,
    fold,
    history_faults,
    pairing_faults,
    prompt_message,
    resume_point,
)
from strandline._model import (
    Block,
    Cancelled,
    Checkpoint,
    Ending,
    ErrorCode,
    Failed,
    Message,
    Question,
    Raised,
    RoundDone,
    RoundStarted,
    Succeeded,
    ToolDone,
    ToolNotDone,
    ToolResult,
)
from strandline.testing._checker import Ledger, check_history, check_truthful

HELLO = prompt_message("hello")


def user(*content: Block) -> Message:
    return {"role": "user", "content": list(content)}


def assistant(*content: Block) -> Message:
    return {"role": "assistant", "content": list(content)}


def say(text: str) -> Block:
    return {"text": text}


def ask(*ids: str) -> list[Block]:
    return [{"toolUse": {"toolUseId": each, "name": f"tool_{each}", "input": {}}} for each in ids]


def result(tool_use_id: str, text: str = "done", status: str = "success") -> ToolResult:
    return {"toolUseId": tool_use_id, "status": status, "content": [{"text": text}]}


def gave(*results: ToolResult) -> list[Block]:
    return [{"toolResult": each} for each in results]


def unknown(tool_use_id: str) -> ToolResult:
    return {"toolUseId": tool_use_id, "status": "error", "content": [{"text": UNKNOWN_OUTCOME}]}


# -- the question -------------------------------------------------------------------------------------


def test_a_question_is_a_user_message() -> None:
    assert prompt_message("hello") == user(say("hello"))
    assert prompt_message([say("look"), {"image": {"format": "png", "source": {"bytes": b"1"}}}]) == user(
        say("look"), {"image": {"format": "png", "source": {"bytes": b"1"}}}
    )


@pytest.mark.parametrize("prompt", ["", " ", "\n\t", [], [say("")], [say(" "), say("\n")], [*ask("a")]])
def test_an_empty_message_reaches_history_as_a_text_that_says_so(prompt: str | list[Block]) -> None:
    assert prompt_message(prompt) == user(say("(empty message)"))


def test_a_caller_cannot_put_tool_blocks_into_history() -> None:
    assert prompt_message([*ask("a"), say("hi"), *gave(result("a"))]) == user(say("hi"))


def test_the_text_of_an_answer_is_its_text_blocks() -> None:
    assert answer_text(assistant(say("one"), *ask("a"), say("two"))) == "one\ntwo"
    assert answer_text(assistant(*ask("a"))) == ""
    assert answer_text(None) == ""


# -- a run that returned ------------------------------------------------------------------------------


def test_an_answered_run_is_left_as_it_is() -> None:
    messages = [HELLO, assistant(*ask("a")), user(*gave(result("a"))), assistant(say("done"))]

    closed = close(messages, {}, Succeeded())

    assert len(closed) == len(messages)
    assert all(one is other for one, other in zip(closed, messages, strict=True))
    assert closed is not messages


def test_a_run_that_left_nothing_says_that_it_has_no_answer() -> None:
    assert close([], {}, Succeeded()) == [assistant(say("(This run ended without an answer.)"))]


def test_a_structured_output_is_closed_with_its_json_as_the_assistants_text() -> None:
    messages = [HELLO, assistant(*ask("Weather")), user(*gave(result("Weather", "Successfully validated")))]

    assert close(messages, {}, Succeeded(text='{"degrees": 31}')) == [*messages, assistant(say('{"degrees": 31}'))]


def test_a_reached_limit_is_in_history() -> None:
    messages = [HELLO, assistant(*ask("a")), user(*gave(result("a")))]

    assert close(messages, {}, Succeeded(limit=True)) == [*messages, assistant(say("(This run ended early: limit.)"))]


def test_the_answer_of_a_limited_run_is_kept() -> None:
    messages = [HELLO, assistant(say("That is all."))]

    assert close(messages, {}, Succeeded(limit=True)) == messages


@pytest.mark.parametrize("text", [None, "", " \n"])
@pytest.mark.parametrize(
    "tail", [[], [assistant()], [assistant(say(""))], [assistant(say(" "))], [assistant(say("")), assistant()]]
)
def test_a_run_without_an_answer_says_so(text: str | None, tail: list[Message]) -> None:
    closed = close([HELLO, *tail], {}, Succeeded(text=text))

    assert closed == [HELLO, assistant(say("(This run ended without an answer.)"))]


def test_reasoning_alone_is_no_answer() -> None:
    """Anthropic refuses a message that ends in it, and would refuse every later request of that session."""
    thought: Block = {"reasoningContent": {"reasoningText": {"text": "hm"}}}

    assert close([HELLO, assistant(thought)], {}, Succeeded()) == [
        HELLO,
        assistant(say("(This run ended without an answer.)")),
    ]
    assert close([HELLO, assistant(say("31"), thought)], {}, Succeeded()) == [HELLO, assistant(say("31"))]
    kept = [HELLO, assistant(thought, say("31"))]
    assert close(kept, {}, Succeeded())[1] is kept[1]


# -- a run that did not return ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "shown"),
    [
        (Failed(ErrorCode.AGENT_ERROR), "(This run ended early: agent_error.)"),
        (Failed(ErrorCode.AGENT_ERROR, " \n"), "(This run ended early: agent_error.)"),
        (Failed(ErrorCode.AGENT_ERROR, raised=Raised("KeyError", "hunter2")), "(This run ended early: agent_error.)"),
        (Failed(ErrorCode.TIMEOUT), "(This run ended early: timeout.)"),
        (Failed(ErrorCode.QUEUE_TIMEOUT), "(This run ended early: queue_timeout.)"),
        (Failed(ErrorCode.CRASHED), "(This run ended early: crashed.)"),
        (Failed(ErrorCode.STOPPED), "(This run ended early: stopped.)"),
        (Cancelled(), "(This run ended early: cancelled.)"),
    ],
)
def test_the_end_is_in_history_in_fixed_words(ending: Ending, shown: str) -> None:
    assert close([HELLO], {}, ending) == [HELLO, assistant(say(shown))]


def test_why_a_run_failed_is_a_block_of_its_own_behind_the_sentence_and_not_longer_than_the_model_can_bear() -> None:
    for detail in ("no room", "x" * 500, "x" * 501 + "y"):
        sentence = "(This run ended early: agent_error.)"
        closed = close([HELLO, assistant(say("I am"))], {}, Failed(ErrorCode.AGENT_ERROR, detail))
        assert closed == [HELLO, assistant(say("I am"), say(sentence), say(detail[:500]))]


def test_every_error_code_has_its_sentence() -> None:
    assert [ended_early(code) for code in ErrorCode] == [f"(This run ended early: {code.value}.)" for code in ErrorCode]


def test_partial_text_is_kept_as_a_block_of_its_own_before_the_closing_one() -> None:
    closed = close([HELLO, assistant(say("It is su"))], {}, Cancelled())

    assert closed == [HELLO, assistant(say("It is su"), say("(This run ended early: cancelled.)"))]


def test_the_text_of_an_answer_that_hit_max_tokens_is_kept() -> None:
    cut = assistant(say("Once upon a"), say("The selected tool a's tool use was incomplete."))

    assert close([HELLO, cut], {}, Failed(ErrorCode.AGENT_ERROR)) == [
        HELLO,
        assistant(*cut["content"], say("(This run ended early: agent_error.)")),
    ]


def test_the_metadata_of_a_message_survives_what_is_appended_to_it() -> None:
    cut: Message = {"role": "assistant", "content": [say("so")], "metadata": {"usage": {"outputTokens": 1}}}

    assert close([HELLO, cut], {}, Cancelled())[1]["metadata"] == {"usage": {"outputTokens": 1}}


def test_blank_partial_text_is_not_kept() -> None:
    assert close([HELLO, assistant(say(" \n"))], {}, Cancelled()) == [
        HELLO,
        assistant(say("(This run ended early: cancelled.)")),
    ]


def test_finished_tools_keep_their_results_and_the_others_read_as_unknown() -> None:
    messages = [HELLO, assistant(say("I look."), *ask("a", "b", "c"))]

    closed = close(messages, {"b": result("b", "31 degrees")}, Failed(ErrorCode.CRASHED))

    assert closed == [
        *messages,
        user(*gave(unknown("a"), result("b", "31 degrees"), unknown("c"))),
        assistant(say("(This run ended early: crashed.)")),
    ]
    assert closed[1] is messages[1]


def test_the_result_of_a_tool_that_failed_is_a_result() -> None:
    failed = result("a", "Error: no such city", "error")

    closed = close([HELLO, assistant(*ask("a"))], {"a": failed}, Cancelled())

    assert closed[2] == user(*gave(failed))


def test_the_sentence_of_an_unknown_outcome_says_that_it_may_have_taken_effect() -> None:
    assert "unknown" in UNKNOWN_OUTCOME
    assert "may have taken effect" in UNKNOWN_OUTCOME


def test_results_in_the_messages_count_before_checkpointed_ones() -> None:
    messages = [HELLO, assistant(*ask("a", "b")), user(*gave(result("a", "from messages")))]

    closed = close(messages, {"a": result("a", "staged"), "b": result("b", "staged")}, Cancelled())

    assert closed[2] == user(*gave(result("a", "from messages"), result("b", "staged")))


def test_results_of_one_round_that_stand_in_several_messages_are_all_kept() -> None:
    messages = [HELLO, assistant(*ask("a", "b")), user(*gave(result("a"))), user(*gave(result("b"))), user(say("now?"))]

    assert close(messages, {}, Cancelled()) == [
        HELLO,
        messages[1],
        user(*gave(result("a"), result("b")), say("now?")),
        assistant(say("(This run ended early: cancelled.)")),
    ]


def test_an_empty_message_between_a_tool_and_its_result_hides_nothing() -> None:
    messages = [HELLO, assistant(*ask("a")), assistant(say("")), user(*gave(result("a"))), assistant(say("ok"))]

    assert close(messages, {}, Succeeded()) == [*messages[:2], *messages[3:]]


def test_two_messages_of_one_role_become_one() -> None:
    messages = [HELLO, user(say("and?")), assistant(say("one")), assistant(say("two"))]

    assert close(messages, {}, Succeeded()) == [user(say("hello"), say("and?")), assistant(say("one"), say("two"))]


# -- what a provider would refuse for good ------------------------------------------------------------


@pytest.mark.parametrize("content", [[], [say("")], [say(" "), say("\n")]])
def test_a_tool_without_output_says_so(content: list[Block]) -> None:
    """Bedrock refuses a blank text in a result, and an error without any: the session would never answer again."""
    quiet: ToolResult = {"toolUseId": "a", "status": "error", "content": content}
    shown: ToolResult = {"toolUseId": "a", "status": "error", "content": [say("(no output)")]}

    in_messages = close([HELLO, assistant(*ask("a")), user(*gave(quiet)), assistant(say("ok"))], {}, Succeeded())
    stored = close([HELLO, assistant(*ask("a"))], {"a": quiet}, Cancelled())

    assert in_messages[2] == stored[2] == user(*gave(shown))
    assert quiet["content"] == content


def test_a_question_that_is_blank_still_is_one() -> None:
    assert close([user(say(" "))], {}, Cancelled())[0] == user(say("(empty message)"))


def test_a_tool_called_twice_under_one_id_has_two_results() -> None:
    """Small models do that. Only one result can be known under one id."""
    twice = [HELLO, assistant(*ask("a", "a"))]

    stored = close(twice, {"a": result("a")}, Cancelled())
    returned = close(
        [*twice, user(*gave(result("a", "one"), result("a", "two"))), assistant(say("ok"))], {}, Succeeded()
    )

    assert [block["toolUse"]["toolUseId"] for block in stored[1]["content"]] == ["a", "a-2"]
    assert stored[2] == user(*gave(result("a"), unknown("a-2")))
    assert returned[2] == user(*gave(result("a", "one"), result("a-2", "two")))


def test_a_result_that_its_tool_left_without_an_id_is_no_result() -> None:
    nameless: ToolResult = {"status": "success"}
    messages = [HELLO, assistant(*ask("a")), user(*gave(nameless), say("go on"))]

    closed = close(messages, {}, Cancelled())

    assert closed[2] == user(*gave(unknown("a")), say("go on"))
    assert close([HELLO, assistant(*ask("a"))], {"a": nameless}, Cancelled())[2] == user(
        *gave({"status": "success", "toolUseId": "a", "content": [say("(no output)")]})
    )


# -- what agents and tools build by hand --------------------------------------------------------------


class _Mute:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (["31", "sunny"], [say("31"), say("sunny")]),
        (("31", say("sunny")), [say("31"), say("sunny")]),
        ([1, None, 2.5, ["a"]], [say("1"), say("None"), say("2.5"), say("['a']")]),
        ("sunny", [say("sunny")]),
        (31, [say("31")]),
        (None, [say("(no output)")]),
        ([{}, ""], [say("(no output)")]),
        ({"degrees": 31}, [say("{'degrees': 31}")]),
        (say("sunny"), [say("sunny")]),
        ([{"json": 31}, {"degrees": 31}, {"text": 31}], [{"json": 31}, say("{'degrees': 31}"), say("31")]),
        ([{"toolUse": {"toolUseId": "b"}}], [say("{'toolUse': {'toolUseId': 'b'}}")]),
        ([_Mute()], [say("(a _Mute that cannot be shown as text)")]),
    ],
)
def test_a_malformed_tool_result_becomes_text(content: Any, shown: list[Block]) -> None:
    odd: ToolResult = {"toolUseId": "a", "status": "success", "content": content}
    ends: list[Message] = [HELLO, assistant(*ask("a"))]
    fine = user(*gave({"toolUseId": "a", "status": "success", "content": shown}))

    assert close([*ends, user(*gave(odd)), assistant(say("ok"))], {}, Succeeded())[2] == fine
    assert close(ends, {"a": odd}, Cancelled())[2] == fine
    assert Progress(messages=ends, results={"a": odd}).messages_to_resume()[2] == fine
    if not isinstance(content, dict):
        assert close(ends, {"a": content}, Cancelled())[2] == fine


def test_a_value_returned_in_place_of_a_result_becomes_text() -> None:
    closed = close([HELLO, assistant(*ask("a"))], {"a": {"degrees": 31}}, Cancelled())

    assert closed[2] == user(*gave(result("a", "{'degrees': 31}")))


def test_text_before_a_result_without_an_id_is_kept() -> None:
    nameless: Any = {"toolResult": {"content": ["31"]}}

    assert close([HELLO, assistant(*ask("a")), user(say("so:"), nameless)], {}, Cancelled())[2] == user(
        *gave(unknown("a")), say("so:"), say("31")
    )


@pytest.mark.parametrize(
    ("kind", "blocks"), [("toolUse", ask("a", "a")), ("toolResult", gave(result("a"), result("a")))]
)
def test_an_attempt_resumes_from_blocks_of_tools_with_ids_of_their_own(kind: str, blocks: list[Block]) -> None:
    message: Message = {"role": "assistant" if kind == "toolUse" else "user", "content": blocks}
    on = Progress(messages=[message], results={}, begun=False).messages_to_resume()

    assert [block[kind]["toolUseId"] for block in on[0]["content"]] == ["a", "a-2"]


@pytest.mark.parametrize(
    ("status", "shown"), [(None, "success"), ("success", "success"), ("error", "error"), ("ok", "error"), ([], "error")]
)
def test_a_status_is_one_of_two(status: Any, shown: str) -> None:
    odd = user(*gave({"toolUseId": "a", "status": status, "content": [say("x")]}))

    assert close([HELLO, assistant(*ask("a")), odd], {}, Cancelled())[2] == user(*gave(result("a", "x", shown)))


def test_a_tool_use_has_an_id_a_name_and_an_object_as_input() -> None:
    odd: list[Block] = [{"toolUse": {"toolUseId": 5, "name": None, "input": "x"}}, {"toolUse": {}}, {"toolUse": {}}]
    closed = close([HELLO, assistant(*odd)], {"5": result("5", "31")}, Cancelled())

    assert closed[1:3] == [
        assistant(
            {"toolUse": {"toolUseId": "5", "name": "unknown", "input": {"value": "x"}}},
            {"toolUse": {"toolUseId": "unnamed", "name": "unknown", "input": {}}},
            {"toolUse": {"toolUseId": "unnamed-2", "name": "unknown", "input": {}}},
        ),
        user(*gave(result("5", "31"), unknown("unnamed"), unknown("unnamed-2"))),
    ]
    progress = fold([RoundStarted([HELLO, assistant(*odd)]), ToolDone("5", result("5", "31"))])
    assert list(progress.open_tools().values()) == ["unknown", "unknown"]
    assert progress.messages_to_resume() == closed[:3]


def test_a_result_without_an_id_becomes_text() -> None:
    nameless: list[Any] = [{"toolResult": {"content": ["31", {"json": {"n": 1}}]}}, {"toolResult": "sunny"}]

    assert close([HELLO, assistant(*ask("a")), user(*nameless)], {}, Cancelled())[2] == user(
        *gave(unknown("a")), say("31"), say("{'n': 1}"), say("sunny")
    )


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("hello", [say("hello")]),
        (["hello", 5, {"text": 5}], [say("hello"), say("5"), say("5")]),
        (say("hello"), [say("hello")]),
        (None, [say("(empty message)")]),
        ([{"text": None}, {}], [say("(empty message)")]),
    ],
)
@pytest.mark.parametrize("ending", [Succeeded(text="ok"), Cancelled()])
def test_malformed_content_becomes_text(content: Any, shown: list[Block], ending: Ending) -> None:
    closed = close([{"role": "user", "content": content}], {}, ending)

    assert closed[0] == user(*shown)
    assert history_faults(closed) == check_history(closed) == []
    assert history_faults([{"role": "user", "content": content}, assistant(say("x"))]) != []


def test_a_block_of_several_kinds_becomes_one_block_of_each() -> None:
    mixed: Block = {"text": "I look.", **ask("a")[0]}

    for ending in (Succeeded(), Cancelled()):
        assert close([HELLO, assistant(mixed)], {}, ending)[1] == assistant(say("I look."), *ask("a"))


@pytest.mark.parametrize(
    "answer",
    [{"role": "assistant", "content": "31"}, assistant({"text": 31}), {"role": "assistant", "content": ("31",)}],
)
def test_a_run_whose_answer_is_no_proper_text_succeeds_with_its_text(answer: Any) -> None:
    assert close([HELLO, answer], {}, Succeeded()) == [HELLO, assistant(say("31"))]


def test_text_of_no_proper_form_is_text() -> None:
    odd: list[Any] = ["one", {"text": 2}, {"text": None}]

    assert answer_text({"role": "assistant", "content": odd}) == "one\n2"
    assert prompt_message(odd) == user(say("one"), say("2"))


# -- the run of an answer -----------------------------------------------------------------------------

ASKING = assistant(*ask("a", "b"))


def asks(results: dict[str, ToolResult]) -> Question:
    """Return a question of the tool `b`; these tools of its round have ended."""
    return Question(requests=[], message=ASKING, results=results, state={})


def stopped(tool_use_id: str) -> ToolResult:
    return {"toolUseId": tool_use_id, "status": "error", "content": [{"text": DISMISSED}]}


def test_the_sentence_of_a_tool_that_asked_says_that_it_did_nothing_after_its_question() -> None:
    assert DISMISSED == (
        "This tool asked a person for input and got no answer: it stopped at its question, and did nothing after it."
    )


def test_an_answer_leaves_what_comes_after_the_message_that_asked() -> None:
    rest = [user(*gave(result("a"), result("b"))), assistant(say("booked"))]

    assert close_answer([ASKING, *rest], {}, Succeeded(), begun=True) == rest


def test_a_tool_whose_answer_never_arrived_stopped_at_its_question() -> None:
    closed = close_answer([ASKING], {"a": result("a")}, Cancelled(), begun=False)

    assert closed == [user(*gave(result("a"), stopped("b"))), assistant(say("(This run ended early: cancelled.)"))]


def test_a_tool_that_went_on_with_its_answer_may_have_taken_effect() -> None:
    closed = close_answer([ASKING], {"a": result("a")}, Cancelled(), begun=True)

    assert closed == [user(*gave(result("a"), unknown("b"))), assistant(say("(This run ended early: cancelled.)"))]


def test_two_tools_that_asked_under_one_id_each_stopped_at_its_question() -> None:
    closed = close_answer([assistant(*ask("a", "a"))], {}, Cancelled(), begun=False)

    assert closed[0] == user(*gave(stopped("a"), stopped("a-2")))


def test_a_dismissed_question_has_results_and_says_that_it_got_no_answer() -> None:
    not_given = assistant(say("(The input that was asked for was not given.)"))

    assert dismissed(asks({"a": result("a")})) == [user(*gave(result("a"), stopped("b"))), not_given]
    assert dismissed(asks({"a": result("a")}), begun=True) == [user(*gave(result("a"), unknown("b"))), not_given]


# -- what a run has done so far -----------------------------------------------------------------------


def test_a_run_without_checkpoints_has_done_nothing() -> None:
    progress = fold([])

    assert progress == Progress(messages=[], results={}, state=None)
    assert list(progress.open_tools().values()) == []
    assert progress.messages_to_resume() == []


def test_an_open_round_knows_the_tools_that_may_have_run() -> None:
    progress = fold(
        [
            RoundStarted(messages=[HELLO, assistant(*ask("a", "b"))]),
            ToolDone(tool_use_id="b", result=result("b")),
        ]
    )

    assert list(progress.open_tools().values()) == ["tool_a"]
    assert progress.results == {"b": result("b")}


def test_results_close_a_round_when_the_run_continues_without_its_end() -> None:
    checkpoints: list[Checkpoint] = [
        RoundStarted(messages=[HELLO, assistant(*ask("a"))]),
        ToolDone(tool_use_id="a", result=result("a", "31")),
        RoundStarted(messages=[assistant(*ask("b"))]),
    ]

    progress = fold(checkpoints)

    assert progress.messages == [HELLO, assistant(*ask("a")), user(*gave(result("a", "31"))), assistant(*ask("b"))]
    assert list(progress.open_tools().values()) == ["tool_b"]


def test_the_state_is_that_of_the_last_closed_round() -> None:
    checkpoints: list[Checkpoint] = [
        RoundStarted(messages=[HELLO, assistant(*ask("a"))]),
        RoundDone(messages=[user(*gave(result("a")))], state={"n": 1}),
        RoundStarted(messages=[assistant(*ask("b"))]),
        ToolDone(tool_use_id="b", result=result("b")),
    ]

    assert fold(checkpoints).state == {"n": 1}
    assert fold(checkpoints).messages_to_resume()[-1] == user(*gave(result("b")))


def test_a_round_continues_with_the_results_that_it_has_when_its_tools_start_again() -> None:
    progress = fold(
        [
            RoundStarted(messages=[HELLO, assistant(*ask("a", "b"))]),
            ToolDone(tool_use_id="a", result=result("a")),
            RoundStarted(messages=[]),
        ]
    )

    assert progress.messages == [HELLO, assistant(*ask("a", "b"))]
    assert progress.results == {"a": result("a")}


def test_the_run_of_an_answer_begins_in_the_middle_of_the_round_that_asked() -> None:
    question = asks({"a": result("a")})

    before, after = fold([], question), fold([RoundStarted(messages=[])], question)
    assert before == Progress(messages=[ASKING], results={"a": result("a")}, question_state={}, begun=False)
    assert after == Progress(messages=[ASKING], results={"a": result("a")}, question_state={}, begun=True)
    assert before.messages_to_resume() == [ASKING]
    assert after.messages_to_resume() == [ASKING, user(*gave(result("a"), unknown("b")))]


def test_results_close_the_round_that_asked_when_the_run_continues_without_its_end() -> None:
    checkpoints: list[Checkpoint] = [
        ToolDone(tool_use_id="b", result=result("b")),
        RoundStarted(messages=[assistant(*ask("c"))]),
    ]

    assert fold(checkpoints, asks({"a": result("a")})).messages == [
        ASKING,
        user(*gave(result("a"), result("b"))),
        assistant(*ask("c")),
    ]


LONG = [HELLO, assistant(*ask("x")), user(*gave(result("x"))), assistant(*ask("a", "b", "c"))]
"""A run in its second round; of its three tools `a` has ended."""


def test_tools_are_open_in_the_last_round_alone() -> None:
    assert Progress(messages=LONG, results={"a": result("a")}).open_tools() == {"b": "tool_b", "c": "tool_c"}


def test_the_tools_of_a_round_that_asked_are_open_when_it_has_begun_again() -> None:
    progress = Progress(messages=[ASKING], results={"a": result("a")}, to_restart=frozenset({"b"}), question_state={})

    assert progress.open_tools() == {"b": "tool_b"}
    assert progress.ended_results() == [result("a")]


def test_before_an_answer_arrives_no_tool_is_open() -> None:
    assert Progress(messages=[ASKING], results={}, question_state={}, begun=False).open_tools() == {}


def test_a_run_without_an_open_tool_resumes_as_it_is() -> None:
    progress = Progress(messages=LONG[:3], results={})

    assert resume_point(progress, unknown_tool="fail", idempotent_tools=[]) is progress


def test_an_open_tool_that_may_have_run_keeps_a_run_from_resuming_or_its_result_says_so() -> None:
    progress = Progress(messages=LONG, results={"a": result("a")})

    assert resume_point(progress, unknown_tool="fail", idempotent_tools=[]) is None
    assert resume_point(progress, unknown_tool="fail", idempotent_tools=["tool_b"]) is None, "there is c, too"
    resumed = resume_point(progress, unknown_tool="resume", idempotent_tools=[])
    assert resumed is not None
    assert resumed.results == {"a": result("a"), "b": unknown("b"), "c": unknown("c")}
    assert resumed.to_restart == frozenset()
    assert resumed.messages_to_resume() == [*LONG, user(*gave(result("a"), unknown("b"), unknown("c")))]


def test_idempotent_tools_start_again_and_their_round_stays_open() -> None:
    progress = Progress(messages=LONG, results={"a": result("a")})
    some = resume_point(progress, unknown_tool="resume", idempotent_tools=["tool_b"])
    every = resume_point(progress, unknown_tool="fail", idempotent_tools=["tool_b", "tool_c"])

    assert some is not None
    assert (set(some.to_restart), some.results) == ({"b"}, {"a": result("a"), "c": unknown("c")})
    assert some.ended_results() == [result("a"), unknown("c")]
    assert some.messages_to_resume() == LONG
    assert every is not None
    assert (set(every.to_restart), every.results) == ({"b", "c"}, {"a": result("a")})
    assert every.ended_results() == [result("a")]


def test_a_tool_that_had_done_nothing_starts_again_and_until_then_its_result_says_so() -> None:
    begun: list[Checkpoint] = [
        RoundStarted(LONG),
        ToolDone("a", result("a")),
        ToolNotDone("b", "ada"),
        ToolDone("c", result("c")),
    ]
    waits = fold(begun)
    started = fold([*begun, RoundStarted([])])

    assert waits.open_tools() == {}
    assert (set(waits.to_restart), waits.not_done) == ({"b"}, {"b": "ada"})
    assert waits.ended_results() == [result("a"), result("c")]
    assert waits.messages_to_resume() == LONG
    assert (
        "ada checked that"
        in close(waits.messages, waits.results, Cancelled())[-2]["content"][1]["toolResult"]["content"][0]["text"]
    )
    assert started.open_tools() == {"b": "tool_b"}
    assert started.results == {"a": result("a"), "c": result("c")}
    assert fold([*begun, RoundDone([user(*gave(result("a")))], None)]).not_done == {}
    assert resume_point(waits, unknown_tool="fail", idempotent_tools=[]) is waits
    idempotent = resume_point(
        fold([RoundStarted(LONG), ToolDone("a", result("a")), ToolNotDone("b", "ada")]),
        unknown_tool="fail",
        idempotent_tools=["tool_c"],
    )
    assert idempotent is not None
    assert set(idempotent.to_restart) == {"b", "c"}


# -- the checks ---------------------------------------------------------------------------------------

GOOD = [HELLO, assistant(*ask("a")), user(*gave(result("a"))), assistant(say("done"))]


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([*GOOD[:2], assistant(say("done"))], "message 2 leaves tools without a result: a"),
        (GOOD[:2], "the last message leaves tools without a result: a"),
        ([HELLO, GOOD[3], GOOD[2]], "message 2 answers tools that were not called: a"),
        ([*GOOD[:2], user(say("hm"), *gave(result("a")))], "message 2 has something before its results of tools"),
        ([*GOOD[:2], user(*gave(result("a"), result("a")))], "message 2 names a tool use twice: a"),
        ([HELLO, assistant(*ask("a", "a")), GOOD[2]], "message 1 names a tool use twice: a"),
        ([user(*ask("a")), GOOD[3]], "message 0 is the user's and calls tools"),
        ([HELLO, assistant(*ask("a", "b")), assistant(say("no"))], "message 2 leaves tools without a result: a, b"),
        ([HELLO, assistant(*ask("a", "b"))], "the last message leaves tools without a result: a, b"),
        ([user(*gave(result("a"), result("b"))), GOOD[3]], "message 0 answers tools that were not called: a, b"),
        ([user(*ask("a")), GOOD[2]], "message 1 answers tools that were not called: a"),
        ([HELLO, assistant(*ask("a", "a", "b", "b"))], "message 1 names a tool use twice: a, b"),
        ([HELLO, assistant({"toolUse": {"name": "a", "input": {}}})], "message 1 has a tool block without an id"),
        ([HELLO, GOOD[1], user(*gave({**result("a"), "toolUseId": " "}))], "message 2 has a tool block without an id"),
        ([*GOOD[:2], assistant(*gave(result("a")))], "message 2 is the assistant's and holds results of tools"),
    ],
)
def test_a_fault_of_pairing_is_named(messages: Sequence[Message], fault: str) -> None:
    assert fault in pairing_faults(messages)
    assert fault in history_faults(messages)


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([HELLO], "the last message is not the assistant's"),
        ([GOOD[3], HELLO], "message 0 is of role assistant, not user"),
        ([HELLO, assistant()], "message 1 is empty"),
        ([HELLO, assistant(say(" "))], "message 1 has a blank text"),
        (
            [*GOOD[:2], user(*gave(result("a", ""))), GOOD[3]],
            "message 2 has a tool result that is empty or has a blank text",
        ),
        ([HELLO, assistant(say("x"), {"reasoningContent": {}})], "message 1 stops at its reasoning"),
    ],
)
def test_a_fault_of_history_is_named_and_is_none_of_a_window(messages: Sequence[Message], fault: str) -> None:
    assert fault in history_faults(messages)
    assert pairing_faults(messages) == []


def test_a_good_history_has_no_faults() -> None:
    assert history_faults([]) == []
    assert history_faults(GOOD) == []
    assert history_faults([*GOOD, *GOOD]) == []


BAD_BLOCKS: list[Any] = [
    "text",
    None,
    {},
    {"degrees": 31},
    {"text": 5},
    {"text": "x", "toolUse": {}},
    {"toolResult": "x"},
    {"toolUse": {"toolUseId": "a", "name": "x", "input": "x"}},
    {"toolUse": {"toolUseId": "a", "input": {}}},
    {"toolUse": {"name": "x", "input": {}}},
    *gave({"toolUseId": "a", "status": "success", "content": ["x"]}),
    *gave({"toolUseId": "a", "status": "success", "content": "x"}),
    *gave({"toolUseId": "a", "status": "success", "content": [{"degrees": 31}]}),
    *gave({"toolUseId": "a", "content": [say("x")]}),
    *gave({"toolUseId": "a", "status": "ok", "content": [say("x")]}),
]


@pytest.mark.parametrize("block", BAD_BLOCKS)
def test_both_judges_refuse_a_malformed_block(block: Any) -> None:
    """Wherever it stands, and whatever else of the history is right."""
    answered = [HELLO, assistant(*ask("a"), block), user(*gave(result("a"))), assistant(say("ok"))]
    answers = [HELLO, assistant(*ask("a")), user(block), assistant(say("ok"))]
    for messages in (answered, answers):
        assert history_faults(messages) != []
        assert check_history(messages) != []


# -- the checker, which judges all of the above -------------------------------------------------------


def _broken(*content: Block) -> list[Message]:
    return [HELLO, assistant(*ask("a", "b")), user(*gave(result("a", "31"), unknown("b"))), assistant(*content)]


LEDGER = Ledger(
    ending=Failed(ErrorCode.TIMEOUT, "no answer", Raised("KeyError", "hunter2")),
    question="hello",
    partial="It is",
    finished={"a": result("a", "31")},
    unfinished=frozenset({"b"}),
)
END = [say("(This run ended early: timeout.)"), say("no answer")]
CLOSED = _broken(say("It is"), *END)
NOT_CLOSED = "the run does not close with ['(This run ended early: timeout.)', 'no answer']"
PARTIAL_LOST = "the partial text is not a block of its own before the closing one"


def test_the_checker_finds_nothing_in_a_true_story() -> None:
    assert check_history(CLOSED) == []
    assert check_truthful(CLOSED, LEDGER) == []


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([prompt_message("bye"), *CLOSED[1:]], "the run does not begin with its question"),
        ([HELLO, CLOSED[3]], "tool a had ended and is forgotten"),
        ([*CLOSED[:2], user(*gave(unknown("a"), unknown("b"))), CLOSED[3]], "tool a had ended with another result"),
        ([HELLO, CLOSED[3]], "tool b may have run and is forgotten"),
        (
            [*CLOSED[:2], user(*gave(result("a", "31"), result("b"))), CLOSED[3]],
            "tool b may have run and does not read as unknown",
        ),
        (
            [HELLO, assistant(*ask("a", "b", "c")), *CLOSED[2:]],
            "tool c is reported and was never called",
        ),
        (_broken(*END), PARTIAL_LOST),
        (_broken(say("It is"), say("(This run ended early: cancelled.)")), NOT_CLOSED),
        (_broken(say("It is")), NOT_CLOSED),
        (_broken(say("It is"), END[0]), NOT_CLOSED),
        (_broken(say("It is"), *END, say("more")), NOT_CLOSED),
        (_broken(say("hunter2"), say("It is"), *END), "history has the text of an exception that must not be shown"),
        (_broken(END[0], say("It is"), *END), "the end is reported twice"),
    ],
)
def test_the_checker_finds_what_is_not_true(messages: list[Message], fault: str) -> None:
    assert fault in check_truthful(messages, LEDGER)


def test_the_checker_misses_nothing_that_was_said() -> None:
    said = Ledger(ending=Succeeded(), said=["one", " ", "two"])

    assert check_truthful([HELLO, assistant(say("one"), say("and")), HELLO, assistant(say("two"))], said) == []
    assert len(check_truthful([HELLO, assistant(say("two"), say("one"))], said)) == 1
    assert check_truthful([HELLO, assistant(say(ended_early("limit")))], Ledger(ending=Succeeded())) == [
        "a run that came to its own end reads as ended early"
    ]

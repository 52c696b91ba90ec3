"""For every run and every ending, `close` makes a history that a provider accepts and that is true.

The judge is `strandline.testing._checker`, which shares no code with `strandline._history`.
"""

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from strandline._history import close, fold, history_faults, pairing_faults, prompt_message, resume_point
from strandline._model import (
    Block,
    Cancelled,
    Checkpoint,
    Ending,
    ErrorCode,
    Failed,
    Input,
    Message,
    RoundDone,
    RoundStarted,
    StateRecord,
    Succeeded,
    ToolDone,
    ToolResult,
)
from strandline.testing._checker import Ledger, check_history, check_pairing, check_truthful

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A machine that is busy with other tests is no fault of `close`."""

SECRET = "password=hunter2"

blank = st.sampled_from(["", " ", "\n\t"])
words = st.sampled_from(["Rome", "It is sunny.", "Grüße", "(hm)", "two\nlines"])
text = st.one_of(words, words, blank)
image = st.binary(max_size=4).map(lambda data: {"image": {"format": "png", "source": {"bytes": data}}})
reasoning = words.map(lambda said: {"reasoningContent": {"reasoningText": {"text": said, "signature": "s"}}})
text_block = text.map(lambda said: {"text": said})
output = st.one_of(text_block, image, st.just({"json": {"degrees": 31}}))
status = st.sampled_from(["success", "error"])
state_record = st.one_of(st.none(), st.integers(0, 9).map(lambda n: {"seen": n}))

# What agents and tools build by hand, in no form that anybody has promised.
odd: st.SearchStrategy[Any] = st.one_of(
    words,
    st.sampled_from([None, 0, 31, 2.5, True, "", b"\xff", (1, 2), ["a", "b"], {}, {"degrees": 31}, {1: 2}]),
    text_block,
)
odd_text = odd.map(lambda said: {"text": said})
odd_tool: st.SearchStrategy[Any] = st.builds(
    lambda kind, tool: {kind: tool}, st.sampled_from(["toolUse", "toolResult"]), st.one_of(odd, text_block)
)
odd_output: st.SearchStrategy[Any] = st.one_of(
    odd, st.lists(st.one_of(output, output, odd, odd_text, odd_tool), max_size=3), st.tuples(output, odd)
)
odd_status = st.one_of(status, st.sampled_from([None, "ok", 200, ["error"]]))

inputs: st.SearchStrategy[Input] = st.one_of(text, st.lists(st.one_of(text_block, image), max_size=3))
failures: st.SearchStrategy[Ending] = st.one_of(
    st.builds(Failed, st.sampled_from(ErrorCode), st.sampled_from(["", SECRET])), st.just(Cancelled())
)
endings: st.SearchStrategy[Ending] = st.one_of(
    failures, st.builds(Succeeded, st.one_of(st.none(), text), st.booleans())
)


class Round(Struct):
    """One model call that asks for tools, and what each of them gives in the end."""

    message: Message
    results: dict[str, ToolResult]
    state: StateRecord | None

    def answers(self) -> Message:
        return {"role": "user", "content": [{"toolResult": result} for result in self.results.values()]}


class Story(Struct):
    """A run up to the instant at which it was cut off."""

    prompt: Input
    rounds: list[Round]
    """All but the last are closed."""
    open: frozenset[str] | None
    """Which tools of the last round have ended when the cut comes; None if that round is closed, too."""
    tail: Message | None
    """The answer, or the part of it that had come."""
    whole: bool
    """Whether the tail is the whole answer."""
    pieces: bool = False
    """Whether each result comes in a message of its own, after an empty one of the assistant's."""

    def messages(self) -> list[Message]:
        messages = [prompt_message(self.prompt)]
        for number, each in enumerate(self.rounds, 1):
            messages.append(each.message)
            if self.open is not None and number == len(self.rounds):
                break
            if self.pieces:
                messages.append({"role": "assistant", "content": [{"text": ""}]})
                messages += [{"role": "user", "content": [block]} for block in each.answers()["content"]]
            else:
                messages.append(each.answers())
        return [*messages, self.tail] if self.tail else messages

    def results(self) -> dict[str, ToolResult]:
        if self.open is None:
            return {}
        return {key: result for key, result in self.rounds[-1].results.items() if key in self.open}

    def ledger(self, ending: Ending) -> Ledger:
        finished = {key: result for each in self.rounds for key, result in each.results.items()}
        unfinished = frozenset(self.rounds[-1].results) - self.open if self.open is not None else frozenset()
        said = [each.message for each in self.rounds] + ([self.tail] if self.tail and self.whole else [])
        partial = "" if self.whole or self.tail is None else self.tail["content"][0]["text"]
        return Ledger(
            ending=ending,
            question=self.prompt,
            said=[block["text"] for message in said for block in message["content"] if "text" in block],
            partial=partial,
            finished={key: result for key, result in finished.items() if key not in unfinished},
            unfinished=unfinished,
        )

    def checkpoints(self) -> list[Checkpoint]:
        checkpoints: list[Checkpoint] = []
        news = [prompt_message(self.prompt)]
        for number, each in enumerate(self.rounds, 1):
            closed = self.open is None or number < len(self.rounds)
            done = each.results if closed else self.results()
            checkpoints.append(RoundStarted(messages=[*news, each.message]))
            checkpoints += [ToolDone(tool_use_id=key, result=result) for key, result in done.items()]
            if closed:
                checkpoints.append(RoundDone(messages=[each.answers()], state=each.state))
            news = []
        return checkpoints


odd_fields = st.fixed_dictionaries({}, optional={"name": odd, "input": odd})


@st.composite
def rounds(draw: st.DrawFn, number: int) -> Round:
    ids = [f"t{number}-{each}" for each in range(draw(st.integers(1, 3)))]
    uses: list[Block] = [{"toolUse": {"toolUseId": each, "name": "weather", "input": {"n": number}}} for each in ids]
    content: st.SearchStrategy[Any] = st.lists(output, max_size=2)
    how: st.SearchStrategy[Any] = status
    if draw(st.booleans()):
        uses = [{"toolUse": {"toolUseId": each} | draw(odd_fields)} for each in ids]
        content, how = odd_output, odd_status
    said = draw(st.lists(text_block, max_size=2))
    return Round(
        message={"role": "assistant", "content": [*draw(st.lists(reasoning, max_size=1)), *said, *uses]},
        results={
            each: {"toolUseId": each, "status": draw(how), "content": draw(content)}
            for each in draw(st.permutations(ids))
        },
        state=draw(state_record),
    )


@st.composite
def stories(draw: st.DrawFn, *, whole: bool | None = None) -> Story:
    """Any run, cut off at any point: before or in a model call, in a round with any of its results, at its end."""
    done = [draw(rounds(number)) for number in range(draw(st.integers(0, 4)))]
    cut = "end" if whole else draw(st.sampled_from(["before", "in the model", "in a round", "end"]))
    if cut == "in a round" and not done:
        cut = "before"
    event(f"cut {cut}")
    tail: Message | None = None
    if cut == "end":
        answer = draw(st.lists(reasoning, max_size=1)) + draw(st.lists(st.one_of(text_block, image), max_size=2))
        tail = {"role": "assistant", "content": answer, "metadata": {"usage": {"outputTokens": len(answer)}}}
    elif cut == "in the model":
        tail = {"role": "assistant", "content": [{"text": draw(text)}]}
    ended = draw(st.sets(st.sampled_from(sorted(done[-1].results)))) if cut == "in a round" else None
    return Story(
        prompt=draw(inputs),
        rounds=done,
        open=None if ended is None else frozenset(ended),
        tail=tail,
        whole=cut == "end",
        pieces=draw(st.booleans()),
    )


pool = st.sampled_from(["a", "a", "b", "c", "a-2"])
any_use = pool.map(lambda key: {"toolUse": {"toolUseId": key, "name": "weather", "input": {}}})
any_result = st.builds(
    lambda key, how, content: {"toolResult": {"toolUseId": key, "status": how, "content": content}},
    pool,
    status,
    st.lists(output, max_size=2),
)
any_message: st.SearchStrategy[Message] = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "assistant"]),
    st.lists(st.one_of(text_block, any_use, any_use, any_result, any_result, reasoning, image), max_size=4),
)
rubbish = st.lists(any_message, max_size=7)
after_a_question = rubbish.map(lambda messages: [prompt_message("hi"), *messages])
from_the_user: st.SearchStrategy[list[Message]] = st.builds(
    lambda first, others: [{**first, "role": "user"}, *others], any_message, rubbish
)
any_results = st.dictionaries(pool, any_result.map(lambda block: block["toolResult"]), max_size=3)

odd_id = st.one_of(pool, pool, odd)
odd_use = st.builds(lambda key, other: {"toolUse": {"toolUseId": key} | other}, odd_id, odd_fields)
odd_result = st.builds(
    lambda key, how, content: {"toolResult": {"toolUseId": key, "status": how, "content": content}},
    odd_id,
    odd_status,
    odd_output,
)
odd_mix = st.builds(lambda *blocks: {k: v for block in blocks for k, v in block.items()}, odd_use, odd_result, odd_text)
odd_block: st.SearchStrategy[Any] = st.one_of(odd, odd_text, odd_tool, odd_use, odd_result, odd_mix)
odd_dict: st.SearchStrategy[Any] = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "assistant", "user", "assistant", "system", None]),
    st.one_of(
        st.lists(st.one_of(odd_block, any_use, any_result), max_size=4), st.tuples(any_use, odd_block), odd_block
    ),
)
odd_rubbish: st.SearchStrategy[list[Any]] = st.lists(
    st.one_of(any_message, odd_dict, odd_dict, st.one_of(odd, st.just({"role": "user"}))), max_size=7
)
odd_after_a_question = odd_rubbish.map(lambda messages: [prompt_message("hi"), *messages])
odd_from_the_user: st.SearchStrategy[list[Any]] = st.builds(
    lambda first, others: [{**first, "role": "user"}, *others], odd_dict, odd_rubbish
)
odd_results: st.SearchStrategy[dict[Any, Any]] = st.dictionaries(
    st.one_of(pool, st.sampled_from([None, 31, "", "unnamed"])),
    st.one_of(odd, odd_output, odd_result.map(lambda block: block["toolResult"])),
    max_size=3,
)


# -- runs that were cut off ---------------------------------------------------------------------------


@patient
@given(stories(), failures)
def test_a_run_cut_off_anywhere_leaves_valid_and_truthful_history(story: Story, ending: Ending) -> None:
    closed = close(story.messages(), story.results(), ending)

    assert check_history(closed) == []
    assert check_truthful(closed, story.ledger(ending)) == []
    assert history_faults(closed) == []


@patient
@given(stories(whole=True))
def test_a_run_that_returned_keeps_all_that_it_did(story: Story) -> None:
    ending = Succeeded()
    closed = close(story.messages(), {}, ending)

    assert check_history(closed) == []
    assert check_truthful(closed, story.ledger(ending)) == []


@patient
@given(stories(), st.one_of(st.none(), text), st.booleans())
def test_a_run_that_returned_without_an_answer_is_given_one(story: Story, answer: str | None, limit: bool) -> None:
    story = Story(prompt=story.prompt, rounds=story.rounds, open=story.open, tail=None, whole=True)
    closed = close(story.messages(), story.results(), Succeeded(answer, limit))

    assert check_history(closed) == []
    is_said = limit and not (answer and answer.strip())
    assert check_truthful(closed, story.ledger(Succeeded(limit=is_said))) == []
    if answer and answer.strip():
        assert closed[-1] == {"role": "assistant", "content": [{"text": answer}]}


@patient
@given(stories(), failures)
def test_the_checkpoints_of_a_run_close_like_the_run_itself(story: Story, ending: Ending) -> None:
    """Recovery knows the facts only; it comes to the same history, but for the model call that was under way."""
    progress = fold(story.checkpoints())
    messages = progress.messages or [prompt_message(story.prompt)]
    closed = close(messages, progress.results, ending)

    seen = Story(prompt=story.prompt, rounds=story.rounds, open=story.open, tail=None, whole=False)
    assert closed == close(seen.messages(), seen.results(), ending)
    assert check_truthful(closed, seen.ledger(ending)) == []


@patient
@given(st.lists(st.tuples(stories(), failures), max_size=4))
def test_closed_runs_after_one_another_are_valid_history(runs: list[tuple[Story, Ending]]) -> None:
    history: list[Message] = []
    for story, ending in runs:
        history += close(story.messages(), story.results(), ending)

    assert check_history(history) == []
    assert history_faults(history) == []


# -- close leaves alone what it may not touch ---------------------------------------------------------


@patient
@given(st.one_of(stories().map(Story.messages), rubbish, odd_rubbish), st.one_of(any_results, odd_results), endings)
def test_close_does_not_change_what_it_is_given(
    messages: list[Message], results: dict[str, ToolResult], ending: Ending
) -> None:
    before = copy.deepcopy((messages, results))

    close(messages, results, ending)

    assert (messages, results) == before


@patient
@given(st.one_of(stories().map(Story.messages), after_a_question, odd_after_a_question))
def test_closing_a_closed_run_that_succeeded_changes_nothing(messages: list[Message]) -> None:
    once = close(messages, {}, Succeeded())
    twice = close(once, {}, Succeeded())

    assert [id(message) for message in twice] == [id(message) for message in once]


@patient
@given(stories(), endings)
def test_a_message_with_nothing_to_close_is_the_very_same_object(story: Story, ending: Ending) -> None:
    messages = story.messages()
    closed = close(messages, story.results(), ending)

    for message in closed:
        if message in messages:
            assert any(message is each for each in messages)


# -- whatever else there may be -----------------------------------------------------------------------


@patient
@given(after_a_question, any_results, endings)
def test_any_messages_at_all_come_out_valid(
    messages: list[Message], results: dict[str, ToolResult], ending: Ending
) -> None:
    closed = close(messages, results, ending)

    assert check_history(closed) == []


@patient
@given(from_the_user, any_results, endings)
def test_so_do_those_that_begin_with_a_strange_question(
    messages: list[Message], results: dict[str, ToolResult], ending: Ending
) -> None:
    assert check_history(close(messages, results, ending)) == []


@patient
@given(st.one_of(odd_after_a_question, odd_from_the_user), odd_results, endings)
def test_so_do_those_that_have_no_proper_form(messages: list[Any], results: dict[Any, Any], ending: Ending) -> None:
    closed = close(messages, results, ending)

    assert check_history(closed) == []
    assert history_faults(closed) == []


@patient
@given(st.lists(odd, min_size=1), st.data())
def test_every_result_of_a_tool_is_in_history(outputs: list[Any], data: st.DataObject) -> None:
    """In a message or a checkpoint, in its result's content or instead of a result."""
    uses: list[Block] = [{"toolUse": {"toolUseId": f"t{n}", "name": "x", "input": {}}} for n in range(len(outputs))]
    opened: list[Message] = [prompt_message("hi"), {"role": "assistant", "content": uses}]
    given_by = {f"t{number}": each for number, each in enumerate(outputs)}
    ledger = Ledger(ending=Cancelled(), finished={key: {"content": each} for key, each in given_by.items()})
    blocks: list[Block] = [{"toolResult": {"toolUseId": key, "content": each}} for key, each in given_by.items()]
    answers: Message = {"role": "user", "content": blocks}
    bare = {key: {"content": each} if isinstance(each, dict) else each for key, each in given_by.items()}

    for closed in (
        close([*opened, answers], {}, Cancelled()),
        close(opened, dict(ledger.finished), Cancelled()),
        close(opened, bare, Cancelled()),
    ):
        assert check_history(closed) == []
        assert check_truthful(closed, ledger) == []


@patient
@given(after_a_question, endings)
def test_no_tool_and_no_result_is_invented(messages: list[Message], ending: Ending) -> None:
    """With no results at hand, every result that reads as a success was in the messages."""
    closed = close(messages, {}, ending)

    def succeeded(messages: list[Message]) -> list[list[Block]]:
        return [
            [each for each in block["toolResult"]["content"] if each.get("text", "x").strip()]
            for message in messages
            for block in message["content"]
            if "toolResult" in block and block["toolResult"]["status"] == "success"
        ]

    given_results = succeeded(messages)
    for content in succeeded(closed):
        assert content in given_results or content == [{"text": "(no output)"}]


# -- what a run has done so far -----------------------------------------------------------------------


@patient
@given(stories())
def test_fold_adds_up_to_what_happened(story: Story) -> None:
    progress = fold(story.checkpoints())

    story.tail, story.pieces = None, False
    assert progress.messages == (story.messages() if story.rounds else [])
    assert progress.results == story.results()
    closed = story.rounds if story.open is None else story.rounds[:-1]
    assert progress.state == (closed[-1].state if closed else None)
    called = len(story.rounds[-1].results) if story.open is not None else 0
    assert len(progress.open_tools()) == called - len(story.results())


@patient
@given(stories(), st.data())
def test_a_round_without_a_checkpoint_of_its_end_survives_a_resume(story: Story, data: st.DataObject) -> None:
    """A crash may come between a round's last result and its `RoundDone`; the run then resumes after that round."""
    story = Story(prompt=story.prompt, rounds=story.rounds, open=None, tail=None, whole=False)
    ends = [number for number, checkpoint in enumerate(story.checkpoints()) if isinstance(checkpoint, RoundDone)]
    lost = data.draw(st.sets(st.sampled_from(ends))) if ends else set()
    progress = fold(checkpoint for number, checkpoint in enumerate(story.checkpoints()) if number not in lost)

    ending = Failed(ErrorCode.CRASHED)
    closed = close(progress.messages or [prompt_message(story.prompt)], progress.results, ending)
    assert check_history(closed) == []
    assert check_truthful(closed, story.ledger(ending)) == []


@patient
@given(stories())
def test_a_run_goes_on_from_rounds_that_are_all_closed(story: Story) -> None:
    on = fold(story.checkpoints()).messages_to_resume()

    assert check_pairing(on) == []
    assert [message["role"] for message in on] == (["user", "assistant"] * len(on))[: len(on)]


odd_checkpoints = st.lists(st.tuples(st.sampled_from(["started", "tool", "done"]), odd_rubbish, odd_id, odd_output))


@patient
@given(odd_checkpoints)
def test_malformed_checkpoints_add_up(items: list[tuple[str, list[Any], Any, Any]]) -> None:
    checkpoints = _checkpoints(items)
    progress = fold(checkpoints)

    assert all(isinstance(name, str) for name in progress.open_tools().values())
    on = progress.messages_to_resume()
    assert not [
        block
        for message in on[-1:]
        if message["role"] == "assistant"
        for block in message["content"]
        if "toolUse" in block
    ]
    assert check_history(close([prompt_message("hi"), *on], {}, Cancelled())) == []
    assert check_history(close([prompt_message("hi"), *progress.messages], progress.results, Cancelled())) == []


def _checkpoints(items: list[tuple[str, list[Any], Any, Any]]) -> list[Checkpoint]:
    checkpoints: list[Checkpoint] = []
    for kind, messages, key, result in items:
        if kind == "tool":
            checkpoints.append(ToolDone(tool_use_id=key if isinstance(key, str) else "a", result=result))
        else:
            checkpoints.append(RoundStarted(messages) if kind == "started" else RoundDone(messages, None))
    return checkpoints


@patient
@given(st.one_of(stories().map(Story.checkpoints), odd_checkpoints.map(_checkpoints)), st.data())
def test_each_tool_of_an_open_round_either_starts_again_or_has_one_result(
    checkpoints: list[Checkpoint], data: st.DataObject
) -> None:
    progress = fold(checkpoints)
    names = sorted(set(progress.open_tools().values()))
    idempotent = data.draw(st.sets(st.sampled_from(names))) if names else set()
    again = resume_point(progress, unknown_tool="resume", idempotent_tools=idempotent)

    assert again is not None
    assert {progress.open_tools()[each] for each in again.to_restart} == idempotent
    assert again.messages == progress.messages
    assert {key: again.results[key] for key in progress.results} == dict(progress.results)
    if not again.to_restart:
        assert again.messages_to_resume() == progress.messages_to_resume()
        return
    called = [
        block["toolUse"]["toolUseId"] for block in again.messages_to_resume()[-1]["content"] if "toolUse" in block
    ]
    given = [result["toolUseId"] for result in again.ended_results()]
    assert sorted([*given, *again.to_restart]) == sorted(called), "each has a result or is started, and none has both"
    if set(names) - idempotent:
        assert resume_point(progress, unknown_tool="fail", idempotent_tools=idempotent) is None


# -- the two judges agree -----------------------------------------------------------------------------


def _agree(ours: Callable[[Any], list[str]], theirs: Callable[[Any], list[str]], messages: list[Message]) -> None:
    event("faulty" if ours(messages) else "valid")
    assert bool(ours(messages)) == bool(theirs(messages)), (ours(messages), theirs(messages))


@patient
@given(st.one_of(rubbish, odd_rubbish))
def test_the_checks_of_history_say_what_the_independent_checker_says(messages: list[Message]) -> None:
    _agree(pairing_faults, check_pairing, messages)
    _agree(history_faults, check_history, messages)


@patient
@given(after_a_question, any_results, endings, st.data())
def test_they_agree_on_valid_history_with_one_thing_wrong(
    messages: list[Message], results: dict[str, ToolResult], ending: Ending, data: st.DataObject
) -> None:
    closed = close(messages, results, ending)
    number = data.draw(st.integers(0, len(closed) - 1))
    content = list(closed[number]["content"])
    match data.draw(st.sampled_from(["nothing", "drop message", "drop block", "repeat block", "add block", "role"])):
        case "drop message":
            del closed[number]
        case "drop block":
            del content[data.draw(st.integers(0, len(content) - 1))]
            closed[number] = {**closed[number], "content": content}
        case "repeat block":
            closed[number] = {**closed[number], "content": [*content, data.draw(st.sampled_from(content))]}
        case "add block":
            block = data.draw(st.one_of(text_block, any_use, any_result, reasoning, odd_block))
            place = data.draw(st.integers(0, len(content)))
            closed[number] = {**closed[number], "content": [*content[:place], block, *content[place:]]}
        case "role":
            closed[number] = {**closed[number], "role": data.draw(st.sampled_from(["user", "assistant"]))}

    _agree(pairing_faults, check_pairing, closed)
    _agree(history_faults, check_history, closed)

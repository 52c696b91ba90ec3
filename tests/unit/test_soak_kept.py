"""The soak's judge finds what is wrong about conversations that go back, forks and files, and nothing else."""

from typing import Any

import pytest
from msgspec.structs import replace

from soak.branches import Branch, Branches
from soak.case import Case, Rules
from soak.kept import KEPT, Content, Conversation, Kept, Marked, Resolution, conversation_of, judge_kept
from soak.ledger import Line
from soak.message import read, texts_of
from soak_support import CRASHED, World, assistant, result, use, user

SESSION = f"{KEPT}0.0"
TRUE = Conversation(
    session=SESSION, runs=("r1", "r3"), wanted=("r1", "r3"), texts=("k0-0", "k0-2"), wanted_texts=("k0-0", "k0-2")
)
FILE = Content(session=SESSION, file_id="file_1", how="a download", digest=b"true", wanted=b"true")


def judged(*, conversation: Conversation = TRUE, content: Content = FILE) -> list[str]:
    world = World()
    world.records.kept.conversations.append(conversation)
    world.records.kept.contents.append(content)
    return world.judged()


def test_true_conversations_and_files_are_no_fault() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runs": ("r1", "r2", "r3")}, "has runs ['r1', 'r2', 'r3'], and should have ['r1', 'r3']"),
        ({"runs": ("r1",), "texts": ("k0-0",)}, "has runs ['r1']"),
        ({"runs": ("r3", "r1")}, "should have ['r1', 'r3']"),
        ({"texts": ("k0-0", "k0-9")}, "has other questions than were asked: [('k0-9', 'k0-2')]"),
    ],
)
def test_a_wrong_conversation_is_found(changes: dict[str, Any], said: str) -> None:
    (fault,) = judged(conversation=replace(TRUE, **changes))
    assert said in fault


@pytest.mark.parametrize(("digest", "said"), [(None, "is missing"), (b"other", "has another content")])
def test_a_wrong_file_is_found(digest: bytes | None, said: str) -> None:
    (fault,) = judged(content=replace(FILE, digest=digest))
    assert fault == f"file file_1 of {SESSION} {said} (a download)"


MARK = Marked(session=SESSION, what="run r1", shown="k0-1", allowed=frozenset({"k0-1", "k0-2"}))


@pytest.mark.parametrize(("shown", "is_right"), [("k0-1", True), ("k0-2", True), ("k0-0", False), ("", False)])
def test_a_mark_that_no_options_gave_is_found(shown: str, is_right: bool) -> None:
    world = World()
    world.records.kept.marks.append(replace(MARK, shown=shown))
    fault = f"run r1 of {SESSION} has mark {shown!r}, and should have ['k0-1', 'k0-2']"
    assert world.judged() == ([] if is_right else [fault])


RESOLUTION = Resolution(
    session=SESSION,
    label="k0-4",
    crashed="run-k0-3",
    run_id="run-k0-4",
    done={"t1": "checked k0-4 0"},
    not_done=frozenset({"t2"}),
    kind="succeeded",
    text="k0-3: checked k0-4 0 (After a crash ...), did token",
)


def resolved(*begun: str, **changes: Any) -> list[str]:
    lines = [
        Line(
            kind="begin",
            session=SESSION,
            label="k0-3",
            run_id="run-k0-4",
            tool_use_id=each,
            tool="work",
            pid=2,
            at_ns=9,
        )
        for each in begun
    ]
    kept = Kept(resolutions=[replace(RESOLUTION, **changes)])
    return list(judge_kept(kept, lines))


def test_a_run_that_continues_a_crashed_one_starts_what_had_done_nothing_alone() -> None:
    assert resolved("t2") == resolved("t2", "t3") == []
    (fault,) = resolved("t1", "t2")
    assert fault == "run run-k0-4, which continues run-k0-3, has started ['t1'], which were done"
    (fault,) = resolved()
    assert fault.endswith("has not started ['t2'], which had done nothing")
    assert resolved(kind="timeout") == []
    assert len(resolved("t1", kind="crashed")) == 1


def test_a_run_that_continues_a_crashed_one_has_the_results_that_were_found() -> None:
    (fault,) = resolved("t2", text="k0-3: did it, did token")
    assert fault.endswith("without the result 'checked k0-4 0'")
    assert resolved("t2", kind="agent_error", text="out of order") == []


def test_a_resolved_run_has_the_label_of_the_request_that_took_it_up() -> None:
    """Its metadata has that of the run that crashed: neither was accepted twice."""
    world = World()
    crashed = f"run-{CRASHED}"
    world.records.kept.resolutions.append(replace(RESOLUTION, crashed=crashed, run_id="run-resolved", label="k0-4"))
    world.records.views["run-resolved"] = replace(world.records.views[crashed], label=CRASHED)
    case = Case(world.records, world.lines, Rules())
    assert (case.label_of["run-resolved"], case.label_of[crashed]) == ("k0-4", CRASHED)


def test_a_history_is_read_by_its_runs() -> None:
    file = {"file": {"id": "file_1", "name": "a.bin"}}
    messages = [
        {"run_id": "r1", **user(file, {"text": "k0-0 work.1"})},
        {"run_id": "r1", **assistant(use("work", 1))},
        {"run_id": "r1", **user(result(1, "did it", "success"))},
        {"run_id": "r1", **assistant({"text": "k0-0: did it"})},
        {"run_id": "r2", **user({"text": "k0-0 work.1"})},
        {"run_id": "r2", **assistant({"text": "done"})},
    ]
    assert conversation_of(messages) == (("r1", "r2"), ("k0-0 work.1", "k0-0 work.1"))


def test_what_a_model_reads_of_a_file_is_not_its_question() -> None:
    message = user({"text": "[The file a.bin (application/octet-stream, 11 bytes)]"}, {"text": "k0-0 work.1"})
    assert texts_of(message) == (["k0-0 work.1"], [])


def test_collected_messages_are_read_as_one() -> None:
    one = read("k0-0 work.1 k0-1 think.2 awork.3 ")
    assert (one.label, [call.tool for call in one.calls]) == ("k0-0", ["work", "awork"])


def test_a_client_knows_what_its_conversation_is() -> None:
    known = Branch(session=SESSION)
    branches = Branches.__new__(Branches)
    branches._continue(known, "r1", ())
    branches._continue(known, "r2", known.now)
    branches._continue(known, "r3", known.at["r1"])
    assert known.now == known.at["r3"] == ("r1", "r3")
    assert known.left == [("r1", "r2")]
    assert known.at["r2"] == ("r1", "r2")
    branches._continue(known, "r4", ())
    assert known.at["r4"] == ("r4",)
    assert known.left[-1] == ("r1", "r3")

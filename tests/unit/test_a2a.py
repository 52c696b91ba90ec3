"""A2A: what a client makes of the events of a run."""

import json
from typing import Any

import pytest

from strandline._engine import events
from strandline._engine.events import Event, Numbered
from strandline._http.dialects.a2a.given import params_of, prompt_of
from strandline._http.dialects.a2a.stream import TaskEvents
from strandline._http.dialects.a2a.tasks import Step, Tasks
from strandline._http.dialects.a2a.wire import V0_3, V1_0, Fault, SentMessage, Version
from strandline._model import Message, RunId, RunStatus
from strandline.errors import Invalid

RUN = RunId("run_1")


def said(text: str) -> Message:
    return {"role": "assistant", "content": [{"text": text}]}


def ended(text: str, status: RunStatus = RunStatus.SUCCEEDED) -> events.RunFinished:
    return events.RunFinished(status, text, said(text) if text else None, None, [], None)


def streamed(version: Version, *told: Event) -> list[dict[str, Any]]:
    tasks = Tasks(version=version, task_id=RUN, context_id="s")
    now = tasks.task([Step(run_id=RUN, status=RunStatus.QUEUED)])
    frames = TaskEvents(tasks, RUN, now, rpc_id='"text":"?"')
    sent = frames.opening() + b"".join(frames.of(Numbered(number, 1.0, each)) for number, each in enumerate(told, 1))
    lines = (sent + frames.closing()).decode().split("\n\n")[:-1]
    answers = [json.loads(each.removeprefix("data: ")) for each in lines]
    assert all(each["id"] == '"text":"?"' for each in answers)
    return [each["result"] for each in answers]


def shown(results: list[dict[str, Any]]) -> str:
    """Put together what a client shows."""
    text = ""
    for each in results:
        update = each.get("artifactUpdate", each)
        if "artifact" in update:
            piece = update["artifact"]["parts"][0]["text"]
            text = text + piece if update["append"] else piece
    return text


@pytest.mark.parametrize("version", [V0_3, V1_0])
@pytest.mark.parametrize(
    ("told", "text"),
    [
        ((events.TextDelta("a"), events.TextDelta("b"), ended("ab")), "ab"),
        ((events.TextDelta("a"), events.MessageAdded(said("a")), events.TextDelta("b"), ended("b")), "b"),
        ((events.TextDelta("a"), events.TextReset(), events.TextDelta("b"), ended("b")), "b"),
        ((events.TextDelta("a"), events.TextReset()), ""),
        ((events.TextDelta("a"), events.MessageAdded(said("abc"))), "abc"),
        ((events.TextDelta("a"), events.MessageAdded(said("x"))), "x"),
        ((events.StreamGap(1, 5), events.TextDelta("lost"), events.MessageAdded(said("all")), ended("all")), "all"),
        ((events.TextDelta("half"), events.RunRestarted(2, [said("kept")])), "kept"),
        ((events.TextDelta("half"), events.RunRestarted(2, [])), ""),
        ((events.TextDelta("a"), ended("a b")), "a b"),
        ((events.TextDelta("a"), ended("")), ""),
        ((events.TextDelta('"text":"?"'), events.TextDelta('"\n'), ended('"text":"?""\n')), '"text":"?""\n'),
    ],
)
def test_the_artifact_is_what_the_run_has_said_last(version: Version, told: tuple[Event, ...], text: str) -> None:
    assert shown(streamed(version, *told)) == text


def test_each_version_has_its_own_words() -> None:
    old = streamed(V0_3, events.RunStarted(1), ended("a"))
    assert [each["kind"] for each in old] == ["task", "status-update", "artifact-update", "status-update"]
    assert [each.get("final") for each in old] == [None, False, None, True]
    assert old[-1]["status"]["state"] == "completed"
    new = streamed(V1_0, events.RunStarted(1), ended("a"))
    assert [next(iter(each)) for each in new] == ["task", "statusUpdate", "artifactUpdate", "statusUpdate"]
    assert new[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert "final" not in new[-1]["statusUpdate"]


def given(**message: Any) -> SentMessage:
    found: SentMessage = params_of({"messageId": "m", "parts": [{"text": "hi"}], **message}, SentMessage)
    return found


def test_parts_become_blocks_in_the_forms_of_both_versions() -> None:
    assert prompt_of(given()) == "hi"
    raw = {"raw": "JVBERi0=", "mediaType": "application/pdf", "filename": "a.pdf"}
    file = {"kind": "file", "file": {"bytes": "JVBERi0=", "mimeType": "image/jpg"}}
    parts = [{"kind": "text", "text": "look"}, raw, file, {"kind": "data", "data": {"n": 1}}]
    assert prompt_of(given(parts=parts)) == [
        {"text": "look"},
        {"document": {"format": "pdf", "name": "a.pdf", "source": {"bytes": b"%PDF-"}}},
        {"image": {"format": "jpeg", "source": {"bytes": b"%PDF-"}}},
        {"text": '{"n":1}'},
    ]


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ({"parts": []}, "needs parts"),
        ({"parts": [{"kind": "text"}]}, r"must have `text`.* - at `\$\.message\.parts\[0\]`"),
        ({"parts": [{"raw": "!", "mediaType": "image/png"}]}, "base64"),
        ({"parts": [{"raw": "", "mediaType": "audio/wav"}]}, "must be one of"),
        ({"parts": [{"url": "https://example.com/a.png"}]}, "No URL is fetched"),
        ({"role": "ROLE_AGENT"}, "must be the user's"),
        ({"messageId": "é"}, r"at `\$\.message\.messageId`"),
    ],
)
def test_what_no_agent_gets_is_refused_with_its_place(message: dict[str, Any], what: str) -> None:
    with pytest.raises((Invalid, Fault), match=what):
        prompt_of(given(**message))

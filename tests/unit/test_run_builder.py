"""From a request to a run: defaults, limits, lane and key, and each refusal in words that help."""

from typing import Any

import pytest

from engine_support import Played, echo, key
from strandline._engine.options import Options
from strandline._engine.requests import Replaced, Request, RunBuilder, checked_priority
from strandline._model import (
    Collect,
    IfBusy,
    Keyed,
    Lane,
    NewRun,
    OnDisconnect,
    OnQuestion,
    Resolution,
    RunId,
    RunWebhook,
    Sender,
    Webhook,
    responses,
)
from strandline.errors import Invalid
from strandline.testing._desk import StillClock

NOW = StillClock().now()
TRUSTING = Options(trusted_senders=True)


def build(*, resumable: bool = True, options: Options | None = None, **fields: Any) -> NewRun:
    """Build the run of a request with these fields."""
    fields.setdefault("input", "hi")
    target = Played(echo, resumable=resumable)
    builder = RunBuilder(
        target, options or Options(), StillClock(), lambda session: RunId(f"run of {session.session_id}")
    )
    return builder.build(Request(key=key(), **fields), {"traceparent": "00"})


def refused(**fields: Any) -> str:
    """Return why a request is refused."""
    with pytest.raises(Invalid) as refusal:
        build(**fields)
    return str(refusal.value)


def test_a_bare_request_has_the_servers_defaults() -> None:
    options = Options(timeout_s=50, queue_timeout_s=20, priority=2, on_question=OnQuestion.DISMISS)

    assert build(options=options, metadata={"n": 1}) == NewRun(
        run_id=RunId("run of s"),
        key=key(),
        input="hi",
        lane=Lane.NORMAL,
        priority=2,
        resumable=True,
        timeout_s=50,
        queue_deadline=NOW + 20,
        metadata={"n": 1},
        created_at=NOW,
        if_busy=IfBusy.ENQUEUE,
        on_question=OnQuestion.DISMISS,
        trace={"traceparent": "00"},
        collect=Collect(quiet=0.5, max_wait=5, max_items=20, max_bytes=65536),  # (its session may have it collect)
        own_options=frozenset({"sender"}),  # (no session names one either)
    )


def test_a_request_has_what_it_asks_for() -> None:
    run = build(
        resumable=False, timeout_s=3, queue_timeout_s=4, priority=5, if_busy=IfBusy.REJECT, on_question=OnQuestion.WAIT
    )

    assert (run.resumable, run.timeout_s, run.queue_deadline, run.priority) == (False, 3, NOW + 4, 5)
    assert (run.if_busy, run.on_question, run.lane) == (IfBusy.REJECT, OnQuestion.WAIT, Lane.NORMAL)


@pytest.mark.parametrize("by_server", [True, False])
@pytest.mark.parametrize("now", ["cannot sign for it", "has no secrets", "takes https alone", "takes it"])
def test_a_run_that_continues_or_replaces_another_one_has_its_webhook_while_that_is_allowed(
    now: str, by_server: bool
) -> None:
    """Its caller could name no other: without its webhook it is accepted, a new run with it is not."""
    webhook = Webhook("http://hooks.example/")
    can_sign = None if now == "has no secrets" else lambda principal: now != "cannot sign for it"
    options = Options(webhook_allow_private=now != "takes https alone", webhook="https://own/" if by_server else None)
    builder = RunBuilder(Played(echo), options, StillClock(), lambda session: RunId("r"), can_sign)
    request = Request(key=key(), input="hi", webhook=webhook)
    resolution = Resolution(run_id=RunId("crashed"), tools=())
    own = RunWebhook("https://own/", ("run.finished",), by_server=True) if by_server and can_sign is not None else None
    kept = RunWebhook(webhook.url, webhook.events) if now == "takes it" else own
    assert builder.build(request, None, again=Replaced(run_id=RunId("r0"), joined=0)).webhook == kept
    assert builder.build(request, None, resolution=resolution).webhook == kept
    if now == "takes it":
        assert builder.build(request, None).webhook == kept
    else:
        with pytest.raises(Invalid, match="webhook"):
            builder.build(request, None)


@pytest.mark.parametrize("if_busy", [IfBusy.INTERRUPT, IfBusy.ROLLBACK])
def test_a_run_that_interrupts_goes_to_the_front(if_busy: IfBusy) -> None:
    assert build(if_busy=if_busy).lane == Lane.FRONT


def test_an_answer_goes_before_all_others_and_is_the_responses() -> None:
    run = build(answers={"i": "yes"})

    assert (run.lane, run.input) == (Lane.ANSWER, responses({"i": "yes"}))


def test_a_key_has_its_fingerprint_and_expires_by_the_setting() -> None:
    assert build().keyed is None
    keyed = build(options=Options(idempotency_retention_s=60), idempotency_key="k", fingerprint=b"f").keyed
    assert keyed == Keyed("k", b"f", NOW - 60)


def test_without_a_fingerprint_a_key_stands_for_all_that_is_requested_in_whatever_order() -> None:
    def fingerprint(**fields: Any) -> bytes:
        keyed = build(**{"idempotency_key": "k", "metadata": {"a": 1, "b": {"c": 2, "d": 3}}, **fields}).keyed
        assert keyed is not None
        return keyed.fingerprint

    first = fingerprint()
    assert fingerprint(idempotency_key="another") == first
    assert fingerprint(metadata={"b": {"d": 3, "c": 2}, "a": 1}) == first
    assert len(first) == 32
    others: list[dict[str, Any]] = [
        {"input": "ho"},
        {"input": [{"text": "hi"}]},
        {"answers": {"i": "y"}},
        {"timeout_s": 5.0},
        {"queue_timeout_s": 5.0},
        {"if_busy": IfBusy.REJECT},
        {"on_question": OnQuestion.WAIT},
        {"priority": 1},
        {"on_disconnect": OnDisconnect.CANCEL},
        {"metadata": {"a": 1}},
    ]
    assert len({first, *(fingerprint(**each) for each in others)}) == 1 + len(others)


def test_a_request_without_a_sender_has_the_fingerprint_that_it_always_had() -> None:
    """Keys outlive an upgrade: the fingerprint of what they stand for must not change with it."""
    keyed = build(idempotency_key="k", metadata={"a": 1}).keyed
    assert keyed is not None
    assert keyed.fingerprint.hex() == "51dc28ad92b0378b320035eebde5fa99a928b3e881899c5b6dba71885758ab53"
    named = build(options=TRUSTING, idempotency_key="k", metadata={"a": 1}, sender=Sender("U1", "Ada")).keyed
    assert named is not None
    assert named.fingerprint != keyed.fingerprint


def test_a_sender_is_named_only_where_the_setting_lets_callers_do_so() -> None:
    ada = Sender("U1", "Ada")
    assert refused(sender=ada) == (
        "sender may be named only where the setting trusted_senders is on (STRANDLINE_TRUSTED_SENDERS=true);"
        " leave it out, and the sender is the name of the API key"
    )
    assert build(options=TRUSTING, sender=ada).sender == ada
    assert build(options=TRUSTING).sender is None


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "a\x00", "a\u2028b", "a\u202eb", "x" * 257])
def test_a_senders_name_and_id_are_one_line_that_can_be_shown(text: str) -> None:
    """Else a name could end its line, and pretend that somebody else says the rest."""
    limit = "must be 1 to 256 characters that can be shown, without line breaks"
    assert refused(options=TRUSTING, sender=Sender("U1", text)) == f"sender.name {limit}"
    assert refused(options=TRUSTING, sender=Sender(text, "Ada")) == f"sender.id {limit}"
    build(options=TRUSTING, sender=Sender("x" * 256, "\u00e4 " * 128))


def test_a_run_of_content_blocks_waits_for_the_answer_to_a_question() -> None:
    assert build(on_question=OnQuestion.ANSWER).on_question is OnQuestion.ANSWER
    assert build(input=[{"text": "hi"}], on_question=OnQuestion.ANSWER).on_question is OnQuestion.WAIT
    assert build(input=[{"text": "hi"}], on_question=OnQuestion.DISMISS).on_question is OnQuestion.DISMISS


@pytest.mark.parametrize("name", ["timeout", "queue_timeout"])
def test_a_time_is_more_than_nothing_and_at_most_the_servers_limit(name: str) -> None:
    options = Options(timeout_s=10, queue_timeout_s=10)
    for good in (0.001, 10):
        fields: dict[str, Any] = {f"{name}_s": good}
        build(options=options, **fields)
    for bad in (0, -1, 10.001, float("nan"), float("inf")):
        said = f"{name} must be more than 0 and at most 10 seconds, which is what this server allows"
        assert refused(options=options, **{f"{name}_s": bad}) == said


def test_a_priority_is_1_to_5() -> None:
    assert [checked_priority(each) for each in (1, 3, 5)] == [1, 3, 5]
    for bad in (0, 6):
        assert refused(priority=bad) == "priority must be 1 to 5, 1 first"


def test_metadata_has_a_size() -> None:
    options = Options(max_metadata_bytes=9)
    assert build(options=options, metadata={"a": "b"}).metadata == {"a": "b"}
    assert refused(options=options, metadata={"a": "bc"}) == (
        "metadata must have at most 9 bytes as JSON (setting max_metadata_bytes)"
    )


def nested(levels: int) -> Any:
    """Return objects and lists in each other, so many levels deep."""
    value: Any = {}
    for level in range(levels - 1):
        value = [value] if level % 2 else {"in": value}
    return value


def test_metadata_and_content_blocks_are_not_nested_too_deep() -> None:
    deep, too_deep = {"x": nested(99)}, {"x": nested(100)}
    assert build(metadata=deep).metadata == deep
    said = "must be nested at most 100 levels deep; make it flatter, or send what is deep as JSON in a string"
    assert refused(metadata=too_deep) == f"metadata {said}"
    options = Options(allowed_content=["guardContent"])
    block = {"guardContent": {"x": nested(97)}}
    assert build(options=options, input=[block]).input == [block]
    assert refused(options=options, input=[{"guardContent": {"x": nested(98)}}]) == f"input {said}"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"answers": {}}, "responses must answer at least one input request"),
        ({"answers": {"i": None}}, "a response must not be null, which is no answer to the agent"),
        (
            {"answers": {"i": "y"}, "if_busy": IfBusy.REJECT},
            "if_busy does not go with responses: an answer goes before all others anyway",
        ),
        (
            {"answers": {"i": "y"}, "on_question": OnQuestion.WAIT},
            "on_question does not go with responses: they name what they answer",
        ),
        (
            {"on_question": OnQuestion.ANSWER, "if_busy": IfBusy.INTERRUPT},
            "on_question cannot be answer with if_busy interrupt: that dismisses the question. Leave one out",
        ),
    ],
)
def test_what_excludes_each_other_is_refused(fields: dict[str, Any], said: str) -> None:
    assert refused(**fields) == said


def test_what_goes_together_is_taken() -> None:
    build(on_question=OnQuestion.ANSWER, if_busy=IfBusy.REJECT)
    build(on_question=OnQuestion.DISMISS, if_busy=IfBusy.INTERRUPT)


def test_an_agent_that_keeps_its_own_history_cannot_roll_back() -> None:
    own = Options(self_managed=True)
    assert refused(options=own, if_busy=IfBusy.ROLLBACK) == (
        "if_busy cannot be rollback: these agents keep their history themselves"
    )
    assert build(options=own, if_busy=IfBusy.INTERRUPT).lane == Lane.FRONT

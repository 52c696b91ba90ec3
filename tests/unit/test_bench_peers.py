"""The benchmark of peers: its judge reads the model's ledger, its client the wire; none of the peers is needed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest

from bench.load import Load, Speech, drive, request
from bench.peers import ledger, protocols, run, script
from bench.peers.ledger import Entry
from bench.peers.measure import QUICK, Called, Listener, Measured
from bench.peers.record import Failed, Figures, Five, Killed
from bench.peers.subjects import SERVERS, Subject
from bench.peers.verdicts import of_failed, of_five, of_killed

FIVE = [f"wait 0.4 five {number}" for number in range(5)]
Said = Sequence[tuple[str, str]]


def turns(*messages: str) -> list[tuple[str, str]]:
    """Make a conversation in which each message was answered."""
    return [each for text in messages for each in (("user", text), ("assistant", script.text_of(text)))]


def entry(what: str, said: Said, at_s: float = 0.0) -> Entry:
    return Entry(what, at_s, tuple(said))


# -- the model's script --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        [],
        turns("a"),
        [("user", "a"), ("user", "b")],
        [("assistant", "a")],
        [("user", "a"), ("assistant", "b"), ("assistant", "c")],
    ],
)
def test_the_model_refuses_a_conversation_that_does_not_alternate(said: Said) -> None:
    with pytest.raises(script.Refused):
        asyncio.run(script.answer(said))


def test_the_model_answers_the_last_message_and_fails_on_request() -> None:
    assert asyncio.run(script.answer([*turns("a"), ("user", "b")])) == "Answer to b"
    assert "".join(script.pieces("Answer to a long question")) == "Answer to a long question"
    with pytest.raises(script.OutOfOrder):
        asyncio.run(script.answer([("user", "fail here")]))


def test_each_call_leaves_a_line_when_it_begins_and_one_when_it_ends_or_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    monkeypatch.setattr(script, "LEDGER", str(path))
    asyncio.run(script.answer([("user", "a")]))
    with pytest.raises(script.Refused):
        asyncio.run(script.answer(turns("a")))
    path.write_text(path.read_text() + '{"what": "begin", "at_s": 1')  # as kill -9 leaves it
    assert [(each.what, each.question) for each in ledger.read(path)] == [
        ("begin", "a"),
        ("end", "a"),
        ("begin", "Answer to a"),
        ("fail", "Answer to a"),
    ]


# -- the judge -----------------------------------------------------------------------------------------


def test_only_turns_with_their_own_answer_count_as_history_in_the_order_that_the_model_saw() -> None:
    crossed = [("user", FIVE[3]), ("assistant", script.text_of(FIVE[4])), ("user", "last")]
    assert ledger.order(entry("begin", [*turns(FIVE[1], FIVE[0]), *crossed]), FIVE) == [1, 0]
    assert ledger.order(None, FIVE) == []


def test_calls_overlap_from_their_begin_to_their_end_or_failure() -> None:
    def call(message: str, begin_s: float, end_s: float, how: str = "end") -> list[Entry]:
        said = [("user", message)]
        return [entry("begin", said, begin_s), entry(how, said, end_s)]

    apart = [*call(FIVE[0], 0, 1, "fail"), *call(FIVE[1], 2, 3)]
    assert ledger.most_at_once(apart, FIVE) == 1
    assert ledger.most_at_once([*apart, *call(FIVE[2], 2.5, 4), *call("another", 0, 9)], FIVE) == 2


def test_the_last_call_of_a_message_is_the_one_that_is_judged() -> None:
    first, second = entry("begin", [("user", "a")]), entry("begin", [*turns("b"), ("user", "a")], 1.0)
    assert ledger.begun([first, second], "a") is second
    assert ledger.begun([first], "b") is None
    assert not ledger.ended([first, second], "a")
    assert ledger.ended([entry("end", [("user", "a")])], "a")
    assert ledger.shown(second, "b")
    assert not ledger.shown(second, "Answer to b")
    assert not ledger.shown(None, "b")
    assert ledger.alternates(second)
    assert not ledger.alternates(entry("begin", turns("a")))
    assert not ledger.alternates(None)


@pytest.mark.parametrize(
    ("found", "good", "words"),
    [
        (Five(5, 0, 1, [0, 1, 2, 3, 4], True, True), True, "5 answered; one at a time; history in order"),
        (Five(1, 4, 1, [0], True, True), False, "1 answered, 4 refused; one at a time; history has 1 of 5"),
        (
            Five(5, 0, 5, [3, 1, 4, 2, 0], True, True),
            False,
            "5 answered; 5 overlap; history in the order 4, 2, 5, 3, 1",
        ),
        (Five(5, 0, 2, [0, 1, 2, 3, 4], True, True), False, "5 answered; 2 overlap; history in order"),
        (Five(5, 0, 5, [2], True, True), False, "5 answered; 5 overlap; history has 1 of 5"),
        (Five(5, 0, 5, [0, 1, 2, 3, 4], False, False), False, "5 answered; 5 overlap; history malformed"),
    ],
)
def test_five_at_once_are_good_only_if_all_are_answered_one_at_a_time_and_in_order(
    found: Five, good: bool, words: str
) -> None:
    assert (of_five(found).good, of_five(found).words) == (good, words)


@pytest.mark.parametrize(
    ("found", "good"),
    [
        (Failed(next_answered=True, well_formed=True, told=True), True),
        (Failed(next_answered=True, well_formed=True, told=False), False),
        (Failed(next_answered=False, well_formed=False, told=True), False),
    ],
)
def test_a_failed_turn_is_good_only_if_the_next_is_answered_by_a_model_that_sees_it(found: Failed, good: bool) -> None:
    assert of_failed(found).good is good


@pytest.mark.parametrize(
    ("found", "good"),
    [
        (Killed(5, 5, True, True), True),
        (Killed(5, 4, True, True), False),
        (Killed(1, 0, False, True), False),
        (Killed(5, 5, False, True), False),
        (Killed(5, 5, True, False), False),
        (Killed(0, 0, True, True), False),
    ],
)
def test_a_kill_is_good_only_if_all_that_was_accepted_ran_and_the_conversation_is_there(
    found: Killed, good: bool
) -> None:
    assert of_killed(found).good is good


def test_a_load_with_failures_is_named_and_has_no_figures() -> None:
    taken = Measured(
        one=[Load([0.001, 0.003], seconds=1.0)], many=[Load([0.1] * 10, seconds=2.0)], idle_bytes=50_000_000
    )
    taken.hot = [Load([0.1] * 4, ["503"], seconds=1.0)]
    figures = Figures("lock", {})
    taken.put(figures)
    assert (figures.one_p50_ms, figures.many_per_s, figures.idle_mb) == (3.0, 5.0, 50.0)
    assert (figures.hot_per_s, figures.hot_refused) == (3.0, 0.25)
    taken.many[0].failures.append("500 b'no'")
    broken = Figures("lock", {})
    taken.put(broken)
    assert broken.one_p50_ms is None
    assert broken.failures == ["1 requests failed, e.g. 500 b'no'"]


# -- the wire ------------------------------------------------------------------------------------------

A2A_BODY = (
    b'{"result":{"artifacts":[{"parts":[{"kind":"text","text":"Answer to a lo"},{"kind":"text","text":"ng one"}]}]}}'
)
AGUI_BODY = b'1e\r\ndata: {"delta":"Answer to "}\n\n\r\n1e\r\ndata: {"delta":"a long one"}\n\n\r\n0\r\n\r\n'


@pytest.mark.parametrize(
    "body",
    [A2A_BODY, AGUI_BODY, b'{"result": "Answer to a long one\\n"}', b'{"response":"Answer to a long one"}'],
)
def test_an_answer_is_found_in_one_piece_or_in_several_whatever_the_protocol(body: bytes) -> None:
    assert protocols.answered("a long one", body)
    assert not protocols.answered("another one", body)
    assert not protocols.answered("a long one", b'{"error": "a long one is refused"}')


@pytest.mark.parametrize("subject", SERVERS, ids=[each.key for each in SERVERS])
def test_a_request_of_each_protocol_has_its_message_its_session_and_its_length(subject: Subject) -> None:
    for write in (subject.dialect.turn, subject.dialect.stream):
        head, _, body = write("http://127.0.0.1:80", "my-session", "hello").partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert b"hello" in body
        assert b"my-session" in head + body


@asynccontextmanager
async def answering(response: bytes) -> AsyncIterator[str]:
    """Serve every request with the same response, until its client has left."""
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(response)
        writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*serving)


class Sink(asyncio.Transport):
    """A transport that sends nothing."""

    def write(self, data: object) -> None:
        pass


def test_a_stream_that_comes_in_pieces_is_one_answer_when_its_last_chunk_is_there_and_its_first_text_is_timed() -> None:
    async def play() -> None:
        client = Listener(b"Answer")
        client.connection_made(Sink())
        answer = client.ask(b"")
        pieces = [
            b"HTTP/1.1 200 OK\r\nTransfer-",
            b"Encoding: chunked\r\n\r\n6\r\nAnsw",
            b"er\r\n3\r\n to\r\n",
            b"0\r\n\r\n",
        ]
        seen = []
        for piece in pieces:
            client.data_received(piece)
            seen.append((client.first_at is not None, answer.done()))
        assert seen == [(False, False), (False, False), (True, False), (True, True)]
        assert answer.result() == (200, b"6\r\nAnswer\r\n3\r\n to\r\n0\r\n\r\n")

    asyncio.run(play())


def test_many_clients_share_a_session_and_refusals_are_counted() -> None:
    calls: list[str] = []

    def ask(url: str, session: str) -> bytes:
        calls.append(session)
        return request(url, "GET", "/")

    async def play() -> None:
        speech = Speech(ask, lambda url: request(url, "GET", "/health"), lambda status, body: body == b"yes")
        async with asyncio.timeout(10), answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno") as url:
            load = await drive(url, 3, turns=2, speech=speech, session="hot")
        assert calls == ["hot"] * 3
        assert len(load.latencies_s) == len(load.failures) == 6

    asyncio.run(play())


# -- what is left out ----------------------------------------------------------------------------------


def test_a_subject_that_needs_a_database_is_left_out_with_the_reason_where_there_is_no_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "why_no_postgres", lambda: "PostgreSQL's programs are not installed")
    monkeypatch.setattr(run, "loop", lambda *_: nullcontext(SimpleNamespace(pid=0)))
    monkeypatch.setattr(Called, "warm", AsyncMock())
    subjects = [each for each in SERVERS if each.needs_database]
    with run.Run(replace(QUICK, repetitions=0), subjects, tmp_path, lambda what, done: None) as whole:
        whole.measure()
        whole.try_each()
    assert [each.key for each in subjects] == ["postgresql"]
    assert whole.figures["postgresql"].failures == ["it did not start: PostgreSQL's programs are not installed"]

"""Pages of a history, of runs and of sessions, bounded in bytes, too."""

from typing import Final

from strandline._encoding import encode_messages
from strandline._journal.port import (
    SKIPPED_INPUT_DIVISOR,
    HistoryPage,
    HistoryQuery,
    RunsQuery,
    SessionsQuery,
)
from strandline._model import (
    ANONYMOUS,
    Completion,
    InputRequest,
    Message,
    Outcome,
    Principal,
    Question,
    RunStatus,
    RunSummary,
    SessionKey,
)
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, key, said

LARGE_INPUT: Final = "i" * 100_000


class PagesContract(Contract):
    """Pages bounded by bytes, alone and all together."""

    @scenario
    async def test_a_page_ends_before_it_has_more_than_its_bytes(self, desk: Desk) -> None:
        """Counted message by message, wherever a run begins; one always fits."""
        every, sizes = await _mixed(desk)

        async def page(before: int | None, most_bytes: int | None, limit: int = 99) -> HistoryPage:
            query = HistoryQuery(key(), before=before, limit=limit, discarded=True, most_bytes=most_bytes)
            return await desk.journal.read(query)

        length = len(every)
        for _ in range(2):
            for before in range(1, length + 1):
                for first in range(before):
                    exact = sum(sizes[first:before])
                    assert (await page(before, exact)).first == first
                    assert (await page(before, exact + 1)).messages == every[first:before]
                    assert (await page(before, exact - 1)).first == min(first + 1, before - 1)
                    assert (await page(before, exact, limit=2)).first == max(first, before - 2)
                assert (await page(before, 0)).messages == every[before - 1 : before]
            assert await page(0, 0) == HistoryPage([], 0)
            assert (await page(None, sum(sizes))).messages == every
            assert (await page(None, None)).messages == every, "nothing is cut without `most_bytes`"
            await desk.restart()

    @scenario
    async def test_a_page_of_runs_ends_before_it_has_more_than_its_bytes(self, desk: Desk) -> None:
        """Outcomes and metadata count, and skipped inputs by their share; one run always fits."""
        await _listed(desk)
        for _ in range(2):
            every = (await desk.journal.read(RunsQuery(key()))).runs
            sizes = [_listed_size(run) for run in every]
            assert [run.run_id for run in every] == ["w1", "w0", "x", "e2", "e1", "e0"]
            for start in range(len(every)):
                cursor = None
                if start:
                    cursor = (await desk.journal.read(RunsQuery(key(), None, start))).after
                for end in range(start + 1, len(every) + 1):
                    exact = sum(sizes[start:end])
                    for most_bytes, last in ((exact, end), (exact - 1, max(end - 1, start + 1))):
                        page = await desk.journal.read(RunsQuery(key(), cursor, 99, most_bytes))
                        assert page.runs == every[start:last]
            await desk.restart()

    @scenario
    async def test_all_pages_of_runs_together_are_the_whole_list_whatever_their_bytes(self, desk: Desk) -> None:
        await _listed(desk)
        every = (await desk.journal.read(RunsQuery(key()))).runs
        for most_bytes in (0, 60, 150, 1_000, 4_000, 100_000):
            for limit in (1, 2, 99):
                found: list[RunSummary] = []
                cursor: str | None = None
                while not found or cursor is not None:
                    page = await desk.journal.read(RunsQuery(key(), cursor, limit, most_bytes))
                    assert page.runs, "a page that goes nowhere"
                    found += page.runs
                    cursor = page.after
                assert found == every, f"in pages of {limit} and {most_bytes} bytes"

    @scenario
    async def test_what_a_discarded_run_left_takes_its_room_on_a_page(self, desk: Desk) -> None:
        """Shown or not: else one page could read any number of them."""
        _, sizes = await _mixed(desk)
        hidden = [4, 5, 6]
        exact = sum(sizes[hidden[0] : hidden[-1] + 1])
        for seen in (False, True):
            query = HistoryQuery(key(), before=hidden[-1] + 1, discarded=seen, most_bytes=exact)
            page = await desk.journal.read(query)
            assert (page.first, len(page.messages)) == (hidden[0], len(hidden) if seen else 0)

    @scenario
    async def test_all_pages_together_are_the_whole_history_whatever_their_bytes(self, desk: Desk) -> None:
        every, _ = await _mixed(desk)
        assert len({str(message) for message in every}) == len(every)
        for most_bytes in (0, 60, 100, 300, 1_000, 5_000, 100_000):
            for discarded in (False, True):
                found: list[Message] = []
                before: int | None = None
                while before != 0:
                    query = HistoryQuery(key(), before, limit=7, discarded=discarded, most_bytes=most_bytes)
                    page = await desk.journal.read(query)
                    found = [*page.messages, *found]
                    assert before is None or page.first < before
                    before = page.first
                assert found == (every if discarded else [*every[:4], *every[7:]])

    @scenario
    async def test_a_page_of_sessions_ends_before_it_has_more_than_its_bytes(self, desk: Desk) -> None:
        """Open questions count; one session always fits."""
        sizes = await _asking(desk)
        keys = list(sizes)
        for _ in range(2):
            for start in range(len(keys)):
                after = keys[start - 1] if start else None
                for end in range(start + 1, len(keys) + 1):
                    exact = sum(list(sizes.values())[start:end])
                    for most_bytes in (exact, exact - 1):
                        found = await desk.journal.read(SessionsQuery(None, after, end - start, most_bytes))
                        shown = [each.key for each in found.sessions]
                        assert shown == _that_fit(sizes, keys[start:end], most_bytes)
                        assert found.after == (None if shown[-1] == keys[-1] else shown[-1])
            await desk.restart()

    @scenario
    async def test_all_pages_of_sessions_together_are_the_whole_list_whatever_their_bytes(self, desk: Desk) -> None:
        sizes = await _asking(desk)
        own = [each for each in sizes if each.principal == ANONYMOUS]
        for most_bytes in (None, 0, 300, 1_000, 4_000, 100_000):
            for limit in (1, 2, 99):
                every: list[SessionKey] = []
                last: SessionKey | None = None
                while not every or last is not None:
                    page = await desk.journal.read(SessionsQuery(None, last, limit, most_bytes))
                    assert page.sessions, "a page that goes nowhere"
                    every, last = [*every, *(each.key for each in page.sessions)], page.after
                assert every == list(sizes), f"in pages of {limit} and {most_bytes} bytes"
                found: list[SessionKey] = []
                after: SessionKey | None = None
                while not found or after is not None:
                    of_one = await desk.journal.read(SessionsQuery(Principal(ANONYMOUS), after, limit, most_bytes))
                    assert of_one.sessions, "a page that goes nowhere"
                    found, after = [*found, *(each.key for each in of_one.sessions)], of_one.after
                assert found == own, f"in pages of {limit} and {most_bytes} bytes"


async def _asking(desk: Desk) -> dict[SessionKey, int]:
    """Create sessions of two principals, some with open questions; return the bytes of JSON of each."""
    sizes: dict[SessionKey, int] = {}
    reasons = {"a": None, "b": "r" * 300, "c": "", "d": None, "e": "ü" * 2_000, "f": "r" * 50, "g": None}
    for at in (key(name, principal) for principal in (ANONYMOUS, "other") for name in reasons):
        claim, reason = await desk.start(f"{at.principal}-{at.session_id}", at), reasons[at.session_id]
        sizes[at] = 0
        if reason is None:
            await desk.finish(claim)
            continue
        requests = [InputRequest("i1", "approval", reason)]
        use: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t1", "name": "pay", "input": {}}}]}
        question = Question(requests=requests, message=use, results={}, state={})
        outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=requests)
        await desk.finish(
            claim,
            Completion(outcome=outcome, messages=[*said("go"), use], question=question, answer_within_s=900.0),
        )
        sizes[at] = len(encode_messages(question))
    return dict(sorted(sizes.items()))


def _that_fit(sizes: dict[SessionKey, int], keys: list[SessionKey], most_bytes: int) -> list[SessionKey]:
    """Return as many of these as fit, and at least one."""
    fit = 1
    while fit < len(keys) and sum(sizes[each] for each in keys[: fit + 1]) <= most_bytes:
        fit += 1
    return keys[:fit]


async def _listed(desk: Desk) -> None:
    """Create runs of a session in every state, with large inputs and outcomes of all sizes."""
    for number, size in enumerate((5_000, 0, 300)):
        claim = await desk.start(f"e{number}", input=LARGE_INPUT)
        outcome = Outcome(status=RunStatus.SUCCEEDED, output="o" * size)
        await desk.finish(claim, Completion(outcome=outcome, messages=said("hi", "ho")))
    await desk.start("x", input=LARGE_INPUT, metadata={"k": "m" * 200})
    await desk.accept("w0", input=LARGE_INPUT, metadata={"k": "m" * 100})
    await desk.accept("w1", input=LARGE_INPUT, metadata={"k": "ü" * 30})


def _listed_size(run: RunSummary) -> int:
    metadata = len(encode_messages(run.metadata)) if run.metadata else 0
    passed_over = len(encode_messages(LARGE_INPUT)) // SKIPPED_INPUT_DIVISOR
    return passed_over + metadata + (0 if run.outcome is None else len(encode_messages(run.outcome)))


async def _mixed(desk: Desk) -> tuple[list[Message], list[int]]:
    """Let runs leave messages of all sizes; return these, and how many bytes each takes as JSON."""
    picture: Message = {"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": bytes(3_000)}}}]}
    left = [
        said("0", "1" * 40, "2" * 5_000),
        said("3"),
        [],
        [*said("ü" * 30), picture, *said("hidden " * 20)],
        said(*(str(number) * (7 * number) for number in range(6, 18))),
        [],
    ]
    for number, messages in enumerate(left):
        discarded = "hidden" in str(messages)
        outcome = Outcome(status=RunStatus.FAILED if discarded else RunStatus.SUCCEEDED)
        claim = await desk.start(f"r{number}")
        await desk.finish(claim, Completion(outcome=outcome, messages=messages, discarded=discarded))
    every = [message for messages in left for message in messages]
    return every, [len(encode_messages(message)) for message in every]

"""Isolation of principals: their sessions, and how many runs of each may wait."""

from msgspec.structs import replace

from strandline._journal.port import (
    Accepted,
    Attached,
    Bounds,
    Changed,
    ClaimResult,
    Delete,
    HistoryQuery,
    Refused,
    RunKeyQuery,
    SessionQuery,
    SessionsQuery,
    Stored,
    StoredQuery,
)
from strandline._model import (
    Completion,
    IfBusy,
    Keyed,
    Message,
    Outcome,
    Principal,
    RunId,
    RunStatus,
    SessionId,
    SessionKey,
)
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said

TWO = Bounds(per_session=10, total=4, per_principal=2)
ADA, ADAS_OTHER = key("s", "ada"), key("t", "ada")
BOB, BOBS_OTHER = key("s", "bob"), key("t", "bob")


class PrincipalsContract(Contract):
    """Bounds, and what is seen."""

    @scenario
    async def test_a_principal_whose_queues_are_full_together_is_refused_and_another_is_not(self, desk: Desk) -> None:
        await desk.accept("a", ADA, bounds=TWO, claim_next=False)
        await desk.accept("b", ADAS_OTHER, bounds=TWO, claim_next=False)
        assert await desk.accept("c", ADA, bounds=TWO, claim_next=False) == Refused("principal_full", 2)
        assert await desk.accept("d", key("new", "ada"), bounds=TWO, claim_next=False) == Refused("principal_full", 1)
        assert not await desk.exists("c", "ada")
        assert await desk.journal.read(SessionQuery(key("new", "ada"))) is None, "nothing is kept of a refusal"
        assert await desk.accept("e", BOB, bounds=TWO, claim_next=False) == Accepted(1)
        assert await desk.accept("f", BOBS_OTHER, bounds=TWO, claim_next=False) == Accepted(1)
        assert await desk.accept("g", key("s", "eve"), bounds=TWO, claim_next=False) == Refused("server_full", 1)
        assert await desk.accept("h", ADA, bounds=replace(TWO, per_principal=None), claim_next=False) == Refused(
            "server_full", 2
        )

    @scenario
    async def test_what_signs_for_principals_is_the_journals_own_and_stays(self, desk: Desk) -> None:
        secret = desk.journal.secret
        assert len(secret) == 32
        assert len(set(secret)) > 1, "it is drawn"
        await desk.restart()
        assert desk.journal.secret == secret

    @scenario
    async def test_the_session_of_a_run_is_found_by_its_principal_whatever_its_status(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a", ADA))
        await desk.start("b", BOB)
        for principal, run_id, found in (
            ("ada", "a", ADA), ("bob", "b", BOB), ("bob", "a", None), ("ada", "b", None), ("ada", "x", None)
        ):  # fmt: skip
            assert await desk.journal.read(RunKeyQuery(Principal(principal), RunId(run_id))) == found

    @scenario
    async def test_what_is_taken_at_once_or_known_by_its_key_is_no_matter_of_that_bound(self, desk: Desk) -> None:
        none = Bounds(per_session=9, total=9, per_principal=0)
        keyed = Keyed("k", b"f" * 32, 0.0)
        await desk.start("a", ADA, bounds=none, keyed=keyed)
        assert await desk.accept("b", ADA, bounds=none) == Refused("principal_full", 1)
        assert await desk.accept("c", ADA, bounds=none, keyed=keyed) == Attached(RunId("a"))
        await desk.start("d", ADAS_OTHER, bounds=none)

    @scenario
    async def test_room_is_made_by_whatever_ends_the_wait_and_not_by_moves(self, desk: Desk) -> None:
        one = Bounds(per_session=9, total=9, per_principal=1)
        claim = await desk.start("a", ADA)
        assert await desk.accept("b", ADA, bounds=one) == Accepted(1)
        assert await desk.accept("x", ADAS_OTHER, bounds=one, claim_next=False) == Refused("principal_full", 1)
        await desk.cancel("b", "ada")
        assert await desk.accept("c", ADA, bounds=one) == Accepted(1)
        assert await desk.finish(claim, claim_next=True) is ClaimResult.CLAIMED
        claim = await desk.claim(of="c")
        assert await desk.accept("d", ADAS_OTHER, bounds=one, claim_next=False) == Accepted(1)
        await desk.release(claim.token, counted=True)
        assert await desk.accept("y", ADA, bounds=one, claim_next=False) == Refused("principal_full", 2)
        # A requeued run makes room for the run that interrupts it, as in its own queue.
        two = Bounds(per_session=9, total=9, per_principal=2)
        assert isinstance(await desk.accept("i", ADA, bounds=two, claim_next=False, if_busy=IfBusy.INTERRUPT), Accepted)

    @scenario
    async def test_names_that_differ_only_from_a_control_character_on_are_different_names(self, desk: Desk) -> None:
        """A store that ends texts at U+0000, or leaves it out, would show one principal the runs of another."""
        ends = ("", "\0", "\0\0", "\0\x01", "\0b", "\x01", "\x01\0", "\x01\x01", "\x01\x02", "\x02", "b")
        keys = [key("s", f"ada{end}") for end in ends]
        for each, end in zip(keys, ends, strict=True):
            claim = await desk.start(f"run{end}", each, keyed=Keyed(f"k{end}", b"f" * 32, 0.0))
            await desk.finish(claim, done("hi", f"ho{end}"))
        for _ in range(2):
            for each, end in zip(keys, ends, strict=True):
                assert (await desk.run(f"run{end}", each.principal)).key == each
                assert not await desk.exists(f"run{end}c", each.principal)
                assert (await desk.journal.load(each)).messages == said("hi", f"ho{end}")
                again = await desk.accept(f"again{end}", each, keyed=Keyed(f"k{end}", b"f" * 32, 0.0))
                assert again == Attached(RunId(f"run{end}"))
            listed = (await desk.journal.read(SessionsQuery(None))).sessions
            assert [each.key for each in listed] == sorted(keys), "in the order of their names"
            await desk.restart()

    @scenario
    async def test_that_bound_holds_over_a_restart(self, desk: Desk) -> None:
        await desk.accept("a", ADA, bounds=TWO, claim_next=False)
        await desk.accept("b", ADAS_OTHER, bounds=TWO, claim_next=False)
        await desk.restart()
        assert await desk.accept("c", ADA, bounds=TWO, claim_next=False) == Refused("principal_full", 2)

    @scenario
    async def test_the_same_key_of_another_principal_is_another_run(self, desk: Desk) -> None:
        keyed = Keyed("k", b"f" * 32, 0.0)
        await desk.start("a", ADA, keyed=keyed)
        await desk.start("b", BOB, keyed=Keyed("k", b"g" * 32, 0.0))

    @scenario
    async def test_the_sessions_of_all_principals_in_order_page_by_page(self, desk: Desk) -> None:
        keys = [ADA, ADAS_OTHER, key("a", "bob"), BOB, key("s", "carol")]
        for number, each in enumerate(reversed(keys)):
            await desk.finish(await desk.start(f"r{number}", each), done("hi", "ho"))
        await desk.accept("w", BOB, claim_next=False)
        for limit in range(1, 7):
            found: list[SessionKey] = []
            after: SessionKey | None = None
            while True:
                page = await desk.journal.read(SessionsQuery(None, after, limit))
                assert len(page.sessions) <= limit
                found += [each.key for each in page.sessions]
                after = page.after
                if after is None:
                    break
            assert found == keys, f"in pages of {limit}"
        for after, own in ((None, keys[2:4]), (ADAS_OTHER, keys[2:4]), (keys[2], [BOB]), (BOB, []), (keys[4], [])):
            found = [each.key for each in (await desk.journal.read(SessionsQuery(BOB.principal, after))).sessions]
            assert found == own, f"those of bob after {after}"
        page = await desk.journal.read(SessionsQuery(None, ADAS_OTHER, 2))
        assert [each.key for each in page.sessions] == keys[2:4]
        assert page.after == BOB
        assert page.sessions[1] == await desk.journal.read(SessionQuery(BOB))
        assert (page.sessions[1].waiting, page.sessions[1].messages) == (1, 2)

    @scenario
    async def test_nothing_that_is_done_for_one_principal_touches_the_session_of_another(self, desk: Desk) -> None:
        for run_id, each in (("a", ADA), ("b", BOB)):
            await desk.finish(await desk.start(run_id, each), done(f"of {run_id}"))
        assert await desk.journal.change(Delete(ADA)) == Changed(existed=True)
        assert (await desk.journal.read(HistoryQuery(ADA))).messages == []
        history = await desk.journal.read(HistoryQuery(BOB))
        assert history.messages[0]["content"] == [{"text": "of b"}]
        assert not await desk.exists("b", "ada")
        assert await desk.exists("b", "bob")
        assert SessionId("s") == ADA.session_id == BOB.session_id

    @scenario
    async def test_what_is_kept_for_a_principal_is_bounded_at_the_accept_and_counted_exactly(self, desk: Desk) -> None:
        """Over ends, restarts, prunes and deletions: what fitted fits again when all is deleted."""
        size = 1_000

        async def fits(most: int) -> bool:
            """Return whether a run of `size` bytes fits; it is refused in any case, as no run may wait."""
            bounds = Bounds(0, 0, stored_bytes=most)
            answer = await desk.accept("probe", key("probe", "ada"), bounds=bounds, claim_next=False, input="x" * size)
            assert isinstance(answer, Refused)
            return answer.reason != "storage_full"

        async def stored_bytes() -> int:
            """Return how many bytes are stored for ada, found by what still fits."""
            low, high = 0, 1_000_000
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if await fits(middle) else (middle + 1, high)
            return low

        nothing = await stored_bytes()
        assert size <= nothing < size + 100
        roomy, metadata = Bounds(9, 9, stored_bytes=nothing), {"m": "n" * (size + 100)}
        assert await desk.accept("m", ADA, bounds=roomy, input="", metadata=metadata) == Refused("storage_full", 1)
        keyed = Keyed("k", b"f" * 32, 0.0)
        await desk.accept("a", ADA, input="y" * 5_000, keyed=keyed)
        with_input = await stored_bytes()
        assert 5_000 <= with_input - nothing < 5_200
        said: list[Message] = [{"role": "assistant", "content": [{"text": "z" * 7_000}]}]
        completion = Completion(outcome=Outcome(status=RunStatus.SUCCEEDED), messages=said, state={"s": "t" * 3_000})
        await desk.finish(await desk.claim(of="a"), completion)
        whole = await stored_bytes()
        assert 13_000 <= whole - with_input < 13_400, "the state as it is, and as it was after the run"
        for _ in range(2):
            assert await stored_bytes() == whole
            await desk.restart()
        full = Bounds(10, 10, stored_bytes=1)
        assert await desk.accept("b", key("new", "bob"), bounds=Bounds(9, 9, stored_bytes=2_000)) == Accepted(0)
        await desk.finish(await desk.claim(of="b"))
        assert await desk.accept("c", ADA, bounds=full) == Refused("storage_full", 1)
        assert await desk.accept("c", ADA, bounds=full, keyed=keyed) == Attached(RunId("a")), "it is known already"
        assert not await desk.exists("c")
        desk.clock.at += 1
        assert await desk.journal.prune(desk.clock.at, 10) == 2
        assert 3_000 <= whole - (with_input - nothing) - await stored_bytes() < 3_100
        assert await desk.journal.change(Delete(ADA)) == Changed(existed=True)
        assert await stored_bytes() == nothing

    @scenario
    async def test_stored_bytes_are_reported_in_total_and_for_the_largest_principal(self, desk: Desk) -> None:
        assert await desk.journal.read(StoredQuery()) == Stored(0, 0)
        for n, (each, size) in enumerate(((ADA, 3_000), (BOB, 5_000), (ADAS_OTHER, 4_000))):
            await desk.finish(await desk.start(f"r{n}", each, input="x" * size))
        for _ in range(2):
            found = await desk.journal.read(StoredQuery())
            assert 12_000 <= found.total < 12_300
            assert 7_000 <= found.largest < 7_200
            await desk.restart()
        await desk.journal.change(Delete(ADA))
        found = await desk.journal.read(StoredQuery())
        assert 9_000 <= found.total < 9_200
        assert 5_000 <= found.largest < 5_100
        for each in (BOB, ADAS_OTHER):
            await desk.journal.change(Delete(each))
        assert await desk.journal.read(StoredQuery()) == Stored(0, 0), "to the last byte"

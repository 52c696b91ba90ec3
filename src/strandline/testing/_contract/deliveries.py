"""Events of runs that are sent to webhooks: stored in the transaction of what they report, until they are received."""

from msgspec import json

from strandline._journal.port import (
    Accepted,
    Bounds,
    Cancel,
    Changed,
    Delete,
    DeliveriesLeft,
    DeliveriesLeftQuery,
    DeliveriesQuery,
    DueDeliveriesQuery,
    NoteDeliveries,
    NotReceived,
    Pause,
    Refused,
    Resend,
    Resume,
    SessionQuery,
    SessionReport,
    SetOptions,
    StoredDelivery,
)
from strandline._model import ANONYMOUS, Principal, RunId, RunWebhook, SessionKey, Webhook
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key

ALL = ("run.queued", "run.started", "run.joined", "run.finished")
HOOK = RunWebhook("https://example.com/hook?x=1", ALL)
HOST = "https://example.com"


async def due(desk: Desk, **more: object) -> list[StoredDelivery]:
    """Return the events that are due."""
    query = DueDeliveriesQuery(desk.clock.at, more.pop("limit", 100), **more)  # type: ignore[arg-type]
    return (await desk.journal.read(query)).deliveries


async def ids(desk: Desk, **more: object) -> list[str]:
    """Return the ids of the events that are due."""
    return [each.id for each in await due(desk, **more)]


async def note(desk: Desk, *received: str, not_received: tuple[NotReceived, ...] = ()) -> None:
    """Note what became of events."""
    assert await desk.journal.change(NoteDeliveries(received, not_received)) == Changed(existed=True)


class DeliveriesContract(Contract):
    """What becomes of events that are sent to webhooks."""

    @scenario
    async def test_events_are_stored_with_what_they_report(self, desk: Desk) -> None:
        """Each once, over a restart; a run without a webhook leaves none."""
        one = await desk.start("one", webhook=HOOK)
        assert await desk.accept("two", webhook=RunWebhook("http://a.test:81/"), claim_next=False) == Accepted(1)
        await desk.start("plain", key("t"))
        assert (await ids(desk))[0] == "one_queued"
        assert [each.partition("_")[::2] for each in await ids(desk)] == [
            ("one", "queued"), ("one", f"started_{one.token.fence}"),
        ]  # fmt: skip
        await desk.finish(one, done("hi", "hello"), claim_next=True)
        await desk.finish(await desk.claim(of="two"), done("hi", "there"))
        expected = {"one_queued", f"one_started_{one.token.fence}", "one_finished", "two_finished"}
        assert set(await ids(desk)) == expected
        stored = {each.id: each for each in await due(desk)}
        assert {each.key for each in stored.values()} == {key()}
        assert {stored[each].host for each in expected} == {HOST, "http://a.test:81"}
        end = json.decode(stored["two_finished"].body or b"")
        assert (end["url"], end["type"], end["timestamp"]) == ("http://a.test:81/", "run.finished", 1000.0)
        assert (end["data"]["run_id"], end["data"]["status"], end["data"]["output"]) == ("two", "succeeded", "there")
        desk.orphans = await desk.restart()
        for orphan in desk.orphans:
            await desk.finish(orphan)
        assert {each.id: each for each in await due(desk)} == stored

    @scenario
    async def test_a_run_that_waits_knows_its_webhook_after_a_restart(self, desk: Desk) -> None:
        """And its events come from whatever ends it."""
        first = await desk.start("first")
        await desk.accept("second", webhook=RunWebhook(HOOK.url))
        (orphan,) = await desk.restart()
        assert orphan.run.run_id == first.run.run_id
        assert (await desk.run("second")).webhook == RunWebhook(HOOK.url)
        await desk.journal.change(Cancel(ANONYMOUS, RunId("second")))
        assert await ids(desk) == ["second_finished"]
        await desk.finish(orphan)

    @scenario
    async def test_an_attempt_after_a_crash_is_no_second_start(self, desk: Desk) -> None:
        """A run that is requeued and claimed again starts again, and says so under another id."""
        claim = await desk.start("a", webhook=RunWebhook(HOOK.url, ("run.started",)))
        (orphan,) = await desk.restart()
        assert await ids(desk) == [f"a_started_{claim.token.fence}"]
        await desk.release(orphan.token, counted=True, claim_next=True)
        again = await desk.claim(of="a")
        assert set(await ids(desk)) == {f"a_started_{claim.token.fence}", f"a_started_{again.token.fence}"}
        await desk.finish(again)

    @scenario
    async def test_what_was_received_is_forgotten_and_the_rest_is_sent_again(self, desk: Desk) -> None:
        """An event is due at its time, or dead; one that is sent again begins anew."""
        claim = await desk.start("a", webhook=HOOK)
        await desk.finish(claim)
        queued, started, finished = "a_queued", f"a_started_{claim.token.fence}", "a_finished"
        await note(
            desk,
            queued,
            not_received=(NotReceived(started, 1, desk.clock.at + 5, "no"), NotReceived(finished, 7, None, "never")),
        )
        assert await ids(desk) == []
        found = await desk.journal.read(DueDeliveriesQuery(desk.clock.at, 9))
        assert found.next_at == desk.clock.at + 5
        assert await desk.journal.read(DeliveriesLeftQuery()) == DeliveriesLeft(1, 1, 1000.0)
        desk.clock.at += 5
        (again,) = await due(desk)
        assert (again.id, again.attempts, again.error) == (started, 1, "no")
        of = {each.id: each for each in await desk.journal.read(DeliveriesQuery(ANONYMOUS))}
        assert (of[finished].at, of[finished].attempts, of[finished].error) == (None, 7, "never")
        assert [each.id for each in await desk.journal.read(DeliveriesQuery(ANONYMOUS, dead=True))] == [finished]
        assert [each.id for each in await desk.journal.read(DeliveriesQuery(ANONYMOUS, dead=False))] == [started]
        assert await desk.journal.read(DeliveriesQuery(ANONYMOUS, after=finished)) == [of[started]]
        assert await desk.journal.read(DeliveriesQuery(Principal("bob"))) == []
        assert await desk.journal.change(Resend(Principal("bob"), finished)) == Changed(existed=False)
        assert await desk.journal.change(Resend(ANONYMOUS, "unknown")) == Changed(existed=False)
        assert await desk.journal.change(Resend(ANONYMOUS, finished)) == Changed(existed=True)
        assert set(await ids(desk)) == {started, finished}
        assert {each.attempts for each in await due(desk)} == {1, 0}
        await note(desk, started, finished, "unknown")
        assert await desk.journal.read(DeliveriesLeftQuery()) == DeliveriesLeft(0, 0, None)

    @scenario
    async def test_events_are_read_in_the_order_in_which_they_are_due(self, desk: Desk) -> None:
        """Some at a time, after one of them, and without those of some principals for some hosts."""
        for number, host in enumerate(("a", "b", "a", "b")):
            desk.clock.at += 1
            await desk.start(f"r{number}", key(f"s{number}"), webhook=RunWebhook(f"https://{host}/", ("run.queued",)))
        assert await ids(desk) == [f"r{number}_queued" for number in range(4)]
        assert await ids(desk, limit=2) == ["r0_queued", "r1_queued"]
        bob = Principal("bob")
        desk.clock.at += 1
        await desk.start("bobs", SessionKey(bob, key().session_id), webhook=RunWebhook("https://a/", ("run.queued",)))
        without = ((ANONYMOUS, "https://a"), (ANONYMOUS, "https://c"), (bob, "https://b"))
        assert await ids(desk, without=without) == ["r1_queued", "r3_queued", "bobs_queued"]
        await note(desk, "bobs_queued")
        assert await ids(desk, after=(1002.0, "r1_queued")) == ["r2_queued", "r3_queued"]
        for orphan in await desk.restart():
            await desk.finish(orphan)

    @scenario
    async def test_deleting_a_session_drops_its_events(self, desk: Desk) -> None:
        """Those of other sessions stay."""
        for name in ("s", "t"):
            await desk.finish(await desk.start(f"of-{name}", key(name), webhook=RunWebhook(HOOK.url)))
        assert await desk.journal.change(Delete(key("s"))) == Changed(existed=True)
        assert await ids(desk) == ["of-t_finished"]

    @scenario
    async def test_a_session_may_have_a_webhook_for_its_runs(self, desk: Desk) -> None:
        """A run's own wins, and so does that of the session over the server's."""
        await desk.finish(await desk.start("first"))
        options = {"webhook": Webhook("https://session/", ("run.finished",))}
        assert await desk.journal.change(SetOptions(key(), options)) == Changed(existed=True)
        by_server = RunWebhook("https://server/", by_server=True)
        await desk.finish(await desk.start_any("a", webhook=by_server))
        own = RunWebhook("https://own/")
        await desk.finish(await desk.start_any("b", webhook=own, own_options=frozenset({"webhook"})))
        assert {each.id: each.host for each in await due(desk)} == {
            "a_finished": "https://session", "b_finished": "https://own",
        }  # fmt: skip
        assert (await desk.run("a")).webhook == RunWebhook("https://session/")

    @scenario
    async def test_a_run_with_a_webhook_is_refused_if_too_many_events_are_left(self, desk: Desk) -> None:
        """Those of another caller do not count, and a run without a webhook is accepted."""
        full = Bounds(10, 10, deliveries=2)
        webhook = RunWebhook(HOOK.url)
        for number in range(2):
            await desk.finish(await desk.start(f"r{number}", webhook=webhook, bounds=full))
        assert await desk.accept("more", webhook=webhook, bounds=full) == Refused("webhooks_full", 1)
        bob = SessionKey(Principal("bob"), key().session_id)
        await desk.finish(await desk.start("bobs", bob, webhook=webhook, bounds=full))
        await desk.finish(await desk.start("plain", bounds=full))
        await note(desk, "r0_finished")
        await desk.finish(await desk.start("more", webhook=webhook, bounds=full))

    @scenario
    async def test_events_of_a_session_are_stored_with_its_changes(self, desk: Desk) -> None:
        """A change that changes nothing has none; deleting drops the earlier ones, and leaves its own."""
        await desk.finish(await desk.start("a"))
        events = ("session.paused", "session.resumed", "session.deleted")
        options = {"webhook": Webhook("https://own/hook", events)}
        assert await desk.journal.change(SetOptions(key(), options)) == Changed(existed=True)
        report = SessionReport(RunWebhook("https://server/", events, by_server=True))
        for change in (Resume, Pause, Pause, Resume, Resume):
            assert await desk.journal.change(change(key(), report)) == Changed(existed=True)
        (paused, resumed) = await due(desk)
        said = [json.decode(each.body or b"") for each in (paused, resumed)]
        assert [each["type"] for each in said] == ["session.paused", "session.resumed"]
        assert {each["url"] for each in said} == {"https://own/hook"}
        assert [each["data"] for each in said] == [{"session_id": key().session_id}] * 2
        assert (paused.key, paused.host, said[0]["by_server"]) == (key(), "https://own", False)
        assert await desk.restart() == []
        assert await due(desk) == [paused, resumed]
        assert await desk.journal.change(Delete(key(), report=report)) == Changed(existed=True)
        (deleted,) = await due(desk)
        assert (deleted.key, json.decode(deleted.body or b"")["type"]) == (key(), "session.deleted")
        assert await desk.journal.change(Delete(key(), report=report)) == Changed(existed=False)
        await desk.finish(await desk.start("b"))
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert await desk.restart() == []
        assert await due(desk) == [deleted]
        await note(desk, deleted.id)
        assert await due(desk) == []

    @scenario
    async def test_events_of_a_session_go_to_the_servers_webhook_if_its_options_have_none(self, desk: Desk) -> None:
        """Only those that are wanted, and none beyond the bound, where the change is made all the same."""
        await desk.finish(await desk.start("a"))
        server = RunWebhook("https://server/", ("session.paused", "run.finished"), by_server=True)
        report = SessionReport(server, deliveries=1)
        for change in (Pause, Resume, Pause):
            assert await desk.journal.change(change(key(), report)) == Changed(existed=True)
        (only,) = await due(desk)
        stored = json.decode(only.body or b"")
        assert (stored["type"], stored["url"], stored["by_server"]) == ("session.paused", server.url, True)
        session = await desk.journal.read(SessionQuery(key()))
        assert session is not None
        assert session.paused
        assert await desk.journal.change(Resume(key())) == Changed(existed=True)
        assert await desk.journal.change(SetOptions(key(), {"webhook": Webhook("https://own/")})) == Changed(
            existed=True
        )
        assert await desk.journal.change(Pause(key(), report)) == Changed(existed=True)
        assert await ids(desk) == [only.id]

    @scenario
    async def test_a_run_has_of_its_sessions_webhook_the_events_of_runs(self, desk: Desk) -> None:
        """And none at all if there are none, not the server's."""
        await desk.finish(await desk.start("a"))
        for events, left in (
            (("session.paused", "run.finished"), RunWebhook("https://own/", ("run.finished",))),
            (("session.paused",), None),
        ):
            webhook = {"webhook": Webhook("https://own/", events)}
            assert await desk.journal.change(SetOptions(key(), webhook)) == Changed(existed=True)
            run_id = f"of-{len(events)}"
            await desk.finish(await desk.start_any(run_id, webhook=RunWebhook("https://server/", by_server=True)))
            assert (await desk.run(run_id)).webhook == left
        assert await ids(desk) == ["of-2_finished"]

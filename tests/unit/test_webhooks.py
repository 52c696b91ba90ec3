"""Webhooks: signatures, secrets, addresses that are refused, and the outbox, on a fake sender and a real journal."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strandline._engine.webhooks import Outbox, SendResult, ToSend, turns
from strandline._engine.webhooks import outbox as outbox_module
from strandline._engine.webhooks.outbox import BUSY, LOOK_S, PAGE
from strandline._engine.webhooks.turns import AT_ONCE, AT_ONCE_EACH, AT_ONCE_FOR_ONE, AT_ONCE_SLOW, PATIENCE_S
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Bounds
from strandline._model import ANONYMOUS, NewRun, Principal, RunId, RunWebhook, SessionId, SessionKey
from strandline._webhooks.addresses import is_public
from strandline._webhooks.secrets import Secrets, checked_name, parse
from strandline._webhooks.signing import headers, new_secret, secret_of
from strandline.errors import JournalUnavailable, NotFound, SettingsError
from strandline.testing._desk import StillClock, done

SECRET = "whsec_" + base64.b64encode(b"s" * 24).decode()
DEADLINE_S = 60.0
WIDE = Bounds(100_000, 100_000)


# -- signatures ------------------------------------------------------------------------------------------


def test_a_signature_is_that_of_the_specification() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks, and its computation."""
    key = secret_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert key is not None
    payload = b'{"test": 2432232314}'
    made = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, payload, [key])
    assert made == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_secret_signs() -> None:
    keys = [b"a" * 24, b"b" * 24]
    signed = headers("id", 7, b"{}", keys)["webhook-signature"].split(" ")
    expected = [hmac.new(key, b"id.7.{}", hashlib.sha256).digest() for key in keys]
    assert [base64.b64decode(each.removeprefix("v1,")) for each in signed] == expected


def test_a_new_secret_is_one_and_nothing_else_is() -> None:
    assert len(secret_of(new_secret()) or b"") == 32
    assert new_secret() != new_secret()
    for text in ("", "whsec_", SECRET.removeprefix("whsec_"), "whsec_!!!!", "whsec_" + "YQ==", SECRET + "\n"):
        assert secret_of(text) is None, text


# -- secrets ---------------------------------------------------------------------------------------------


def test_secrets_are_read_by_name_and_an_error_shows_nothing_of_them() -> None:
    other = new_secret()
    found = parse(f"# a comment\n\nada {SECRET}\nada {other}\n* {SECRET}\n".encode(), "file")
    assert {name: len(keys) for name, keys in found.items()} == {"ada": 2, "*": 1}
    for wrong in (f"{SECRET}", "ada secret123", f"a/b {SECRET}", f"ada {SECRET} more"):
        with pytest.raises(SettingsError, match="file, line 2") as refused:
            parse(f"# first\n{wrong}\n".encode(), "file")
        assert not any(part in str(refused.value) for part in (SECRET, "secret123"))
    with pytest.raises(SettingsError, match="UTF-8"):
        parse(b"\xff", "file")
    with pytest.raises(SettingsError, match="more than 8"):
        parse(f"ada {SECRET}\n".encode() * 9, "file")


def test_who_may_have_secrets() -> None:
    assert [checked_name(each) for each in ("ada", "anonymous", "*")] == ["ada", "anonymous", "*"]
    for name in ("", "..", "a b", "a/b"):
        with pytest.raises(SettingsError):
            checked_name(name)


def test_the_servers_secret_signs_for_the_servers_webhook_only(tmp_path: Path) -> None:
    """A caller could have anything signed by it otherwise, for a URL of its own."""
    file = tmp_path / "secrets"
    file.write_text(f"ada {SECRET}\n* {new_secret()}\n")
    secrets = Secrets(file)
    ada, bob = Principal("ada"), Principal("bob")
    assert (secrets.has(ada), secrets.has(bob)) == (True, False)
    assert secrets.signing(ada, by_server=False) == (secret_of(SECRET),)
    assert secrets.signing(bob, by_server=False) == ()
    assert secrets.signing(ada, by_server=True) == secrets.signing(bob, by_server=True) != ()
    assert secrets.signing(ada, by_server=True) != secrets.signing(ada, by_server=False)
    file.write_text(f"ada {SECRET}\n")
    secrets.refresh()
    assert secrets.signing(ada, by_server=True) == (secret_of(SECRET),)
    file.unlink()
    secrets.refresh()
    assert secrets.has(ada)
    with pytest.raises(SettingsError, match="strandline keys webhook"):
        Secrets(file)


# -- addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_used(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "169.254.169.254", "172.16.0.1",
        "192.0.0.192", "192.168.1.1", "192.88.99.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::7f00:1", "64:ff9b::a00:1",
        "64:ff9b::808:808", "64:ff9b:1::1", "2001::1", "2001:db8::1", "2002:a00:1::1", "fc00::1", "fd00:ec2::254",
        "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "example.com", "",
    ],
)  # fmt: skip
def test_all_other_addresses_are_refused(address: str) -> None:
    assert not is_public(address)


# -- the outbox ------------------------------------------------------------------------------------------


class FakeSender:
    """Notes what is sent; a test decides what becomes of it."""

    def __init__(self) -> None:
        self.sent: list[ToSend] = []
        self.answer: Callable[[ToSend], SendResult | None] = lambda _: SendResult(received=True, detail="")
        """None: it hangs until `release` is set."""
        self.release = asyncio.Event()
        self.at_once = 0
        self.most_at_once = 0

    def can_sign(self, principal: Principal) -> bool:
        return True

    async def send(self, event: ToSend) -> SendResult:
        self.sent.append(event)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if (result := self.answer(event)) is None:
                await self.release.wait()
                result = self.answer(event) or SendResult(received=False, detail="no answer", is_slow=True)
            return result
        finally:
            self.at_once -= 1

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass


class Ready:
    """A service that has started."""

    stopping = False
    started = True

    def admit(self) -> None:
        pass

    def note_request(self) -> None:
        pass


class Mine:
    """All sessions are of this server, but for some."""

    def __init__(self) -> None:
        self.others: set[str] = set()

    def owns(self, key: SessionKey) -> bool:
        return key.session_id not in self.others


class Scene:
    """An outbox over a journal in memory."""

    def __init__(self, **options: Any) -> None:
        self.clock = StillClock()
        self.journal = MemoryJournal(self.clock)
        self.sender, self.ready, self.mine = FakeSender(), Ready(), Mine()
        self.tasks: set[asyncio.Task[Any]] = set()
        options.setdefault("retries_s", (5.0, 60.0))
        self.outbox = Outbox(
            self.journal, self.clock, self.ready, self.mine, self.sender,  # type: ignore[arg-type]
            spawn=self.spawn, **options,
        )  # fmt: skip
        self._runs = 0

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run(
        self,
        host: str = "a",
        session: str = "s",
        events: tuple[str, ...] = ("run.finished",),
        principal: Principal = ANONYMOUS,
    ) -> str:
        """Have a run end that has a webhook; return its id."""
        self._runs += 1
        run_id = f"r{self._runs:05}"
        webhook = RunWebhook(f"https://{host}/", events)
        key = SessionKey(principal, SessionId(session))
        new = NewRun(run_id=RunId(run_id), key=key, input="x", created_at=1.0, webhook=webhook)
        await self.journal.accept(new, WIDE, claim_next=True)
        claim = await anext(self._claims)
        await self.journal.finish(claim.token, done("hi", "there"), claim_next=False)
        return run_id

    async def quiet(self) -> None:
        """Return when nothing happens any more unless time passes."""
        still = 0
        for _ in range(100_000):
            await asyncio.sleep(0)
            still = still + 1 if self.sender.at_once == len(self.tasks) else 0  # (all that is left hangs)
            if still == 20:
                return
        raise AssertionError("it is never quiet")

    async def __aenter__(self) -> "Scene":
        await self.journal.open("test", max_attempts=3)
        self._claims = self.journal.claims()
        self.outbox.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.outbox.close()
        for task in self.tasks:
            task.cancel()
        await self.journal.close()

    async def left(self) -> dict[str, tuple[int, float | None]]:
        """Return what is stored, each with its attempts and when it is sent."""
        page = (await self.outbox.page(ANONYMOUS, dead=None, after="", limit=100_000)).deliveries
        return {each.id: (each.attempts, each.next_at) for each in page}


def test_an_event_is_sent_as_soon_as_it_is_stored_and_forgotten_when_it_was_received() -> None:
    async def scene() -> None:
        async with Scene() as at:
            run_id = await at.run()
            await at.quiet()
            (sent,) = at.sender.sent
            assert (sent.id, sent.url, sent.principal) == (f"{run_id}_finished", "https://a/", ANONYMOUS)
            assert sent.payload.startswith(b'{"type":"run.finished","timestamp":"1970-01-01T00:16:40.000Z","data":{')
            assert await at.left() == {}
            assert (at.outbox.sent, at.outbox.failed) == (1, 0)

    asyncio.run(scene())


def test_an_event_that_is_not_received_is_sent_again_at_its_times_and_is_dead_at_last() -> None:
    async def scene() -> None:
        async with Scene() as at:
            at.sender.answer = lambda _: SendResult(received=False, detail="no")
            event = f"{await at.run()}_finished"
            for sent, left in ((1, (1, 1005.0)), (2, (2, 1065.0)), (3, (3, None))):
                await at.quiet()
                assert len(at.sender.sent) == sent
                assert await at.left() == {event: left}
                at.clock.at += 4.0
                at.outbox.tick()
                await at.quiet()
                assert len(at.sender.sent) == sent, "too early"
                at.clock.at = (left[1] or 9e9) + 0.0
                at.outbox.tick()
            await at.outbox.resend(ANONYMOUS, event)
            at.sender.answer = lambda _: SendResult(received=True, detail="")
            await at.quiet()
            assert await at.left() == {}
            assert len(at.sender.sent) == 4
            with pytest.raises(NotFound):
                await at.outbox.resend(ANONYMOUS, event)

    asyncio.run(scene())


def test_without_retries_an_event_is_dead_after_its_only_attempt() -> None:
    async def scene() -> None:
        async with Scene(retries_s=()) as at:
            at.sender.answer = lambda _: SendResult(received=False, detail="no")
            event = f"{await at.run()}_finished"
            await at.quiet()
            assert await at.left() == {event: (1, None)}
            at.clock.at += 1e6
            at.outbox.tick()
            await at.quiet()
            assert len(at.sender.sent) == 1

    asyncio.run(scene())


def test_a_receiver_that_says_it_is_gone_gets_nothing_again() -> None:
    async def scene() -> None:
        async with Scene() as at:
            at.sender.answer = lambda _: SendResult(received=False, detail="gone", is_final=True)
            event = f"{await at.run()}_finished"
            await at.quiet()
            assert await at.left() == {event: (1, None)}

    asyncio.run(scene())


def test_a_receiver_that_hangs_delays_no_other_however_much_waits_for_it() -> None:
    """It gets one at a time, from its first on."""

    async def scene() -> None:
        async with Scene() as at:
            at.sender.answer = lambda event: None if "slow" in event.url else SendResult(received=True, detail="")
            for _ in range(2 * PAGE):
                await at.run("slow")
            await at.quiet()
            assert len(at.sender.sent) == 1
            quick = [f"{await at.run('quick')}_finished" for _ in range(100)]
            await at.quiet()
            assert [each.id for each in at.sender.sent[1:]] == quick
            at.sender.release.set()
            at.sender.release = asyncio.Event()
            await at.quiet()
            assert len(at.sender.sent) == 1 + len(quick) + 1, "one at a time"

    asyncio.run(scene())


def test_a_dead_receiver_delays_no_other_after_a_restart() -> None:
    """1,000 events for it are due for longer than the one for another receiver: that one is sent without any wait."""

    async def scene() -> None:
        async with Scene() as at:
            at.ready.started = False
            at.sender.answer = lambda event: None if "dead" in event.url else SendResult(received=True, detail="")
            for _ in range(1000):
                await at.run("dead")
            healthy = f"{await at.run('healthy')}_finished"
            at.ready.started = True
            at.outbox.tick()
            await at.quiet()
            assert [each.url for each in at.sender.sent].count("https://dead/") == 1
            assert at.sender.sent[-1].id == healthy

    asyncio.run(scene())


def test_receivers_that_hang_delay_none_of_the_same_caller_that_answers() -> None:
    """However many they are, and before anything is known of them. They get places of their own after a second."""

    async def scene() -> None:
        async with Scene() as at:
            at.sender.answer = lambda event: None if "slow" in event.url else SendResult(received=True, detail="")
            await at.run("quick")
            await at.quiet()
            for number in range(3 * AT_ONCE_FOR_ONE):
                await at.run(f"slow-{number}")
            await at.quiet()
            assert at.sender.at_once == AT_ONCE_FOR_ONE
            event = f"{await at.run('quick')}_finished"
            await at.quiet()
            assert at.sender.sent[-1].id == event
            for expected in (AT_ONCE_FOR_ONE, 2 * AT_ONCE_FOR_ONE, 2 * AT_ONCE_FOR_ONE):
                assert at.sender.at_once == expected
                at.clock.at += PATIENCE_S
                at.outbox.tick()
                await at.quiet()
            at.clock.at += 9.0
            at.sender.release.set()
            await at.quiet()
            assert len({each.url for each in at.sender.sent}) == 3 * AT_ONCE_FOR_ONE + 1

    asyncio.run(scene())


def test_receivers_that_hang_take_a_bounded_part_of_memory_however_many_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each of 1,000 hosts events wait. One that answers gets its own meanwhile, and at last each gets all."""
    monkeypatch.setattr(turns, "IN_MEMORY_FOR_ONE", 100)

    async def scene() -> None:
        async with Scene() as at:
            received = SendResult(received=True, detail="")
            at.sender.answer = lambda event: None if "slow" in event.url else received
            await at.run("quick")
            await at.quiet()
            for number in range(2000):
                await at.run(f"slow-{number % 1000}")
            most = len(AT_ONCE) * 100 + sum(AT_ONCE.values())
            for _ in range(5):
                await at.quiet()
                event = f"{await at.run('quick')}_finished"
                await at.quiet()
                assert at.sender.sent[-1].id == event
                assert len(at.outbox._known) <= most
                at.clock.at += PATIENCE_S
                at.outbox.tick()
            at.sender.answer = lambda _: received
            at.sender.release.set()
            for _ in range(100):
                await at.quiet()
                assert len(at.outbox._known) <= most
                at.clock.at += 1.0
                at.outbox.tick()
            assert at.outbox.sent == len({each.id for each in at.sender.sent}) == len(at.sender.sent) == 2006

    asyncio.run(scene())


def test_callers_whose_receivers_all_hang_delay_no_other_caller() -> None:
    """However many such callers there are, and also at a host that all of them use."""

    async def scene() -> None:
        async with Scene() as at:
            eves = [Principal(f"eve-{number}") for number in range(20)]
            ada = Principal("ada")
            hangs = True
            received = SendResult(received=True, detail="")
            at.sender.answer = lambda event: None if hangs and event.principal in eves else received
            for number in range(AT_ONCE_FOR_ONE // 2):
                for eve in eves:
                    await at.run(f"slow-{number}", principal=eve)
                    await at.run("shared", principal=eve)
            for _ in range(3):
                await at.quiet()
                others = [f"{await at.run(host, principal=ada)}_finished" for host in ["shared", "quick"] * 4]
                await at.quiet()
                assert {each.id for each in at.sender.sent if each.principal == ada} >= set(others)
                at.clock.at += PATIENCE_S
                at.outbox.tick()
            hangs = False
            at.sender.release.set()
            await at.quiet()
            assert at.outbox.sent == len({each.id for each in at.sender.sent}) == len(at.sender.sent)
            assert len(at.sender.sent) == len(eves) * AT_ONCE_FOR_ONE + 3 * 8

    asyncio.run(scene())


def test_a_receiver_that_answers_late_gets_few_at_once_and_more_when_it_is_quick_again() -> None:
    async def scene() -> None:
        async with Scene() as at:
            received = SendResult(received=True, detail="")
            at.sender.answer = lambda _: received
            for _ in range(20):
                await at.run()
                await at.quiet()
            at.sender.answer = lambda _: None
            for _ in range(200):
                await at.run()
            await at.quiet()
            assert at.sender.at_once == AT_ONCE_EACH
            for _ in range(3):
                at.clock.at += PATIENCE_S
                at.outbox.tick()
                late, at.sender.release = at.sender.release, asyncio.Event()
                hangs = iter([received] * 40)
                at.sender.answer = lambda _: next(hangs, None)  # noqa: B023  (used up before the next round)
                late.set()
                await at.quiet()
                assert at.sender.at_once in (AT_ONCE_SLOW, AT_ONCE_EACH)
            at.sender.answer = lambda _: received
            at.sender.release.set()
            await at.quiet()
            assert len(at.sender.sent) == 220

    asyncio.run(scene())


def test_tests_of_a_webhook_take_no_more_places_than_events() -> None:
    async def scene() -> None:
        async with Scene() as at, asyncio.timeout(DEADLINE_S):
            at.sender.answer = lambda _: None
            eve, ada = Principal("eve"), Principal("ada")

            def tested(principal: Principal, number: int, host: str) -> "asyncio.Task[SendResult]":
                return asyncio.create_task(at.outbox.test(principal, f"test_{number}", f"https://{host}/"))

            tests = [tested(eve, number, f"slow-{number}") for number in range(AT_ONCE_FOR_ONE)]
            at.tasks.update(tests)
            await at.quiet()
            assert await at.outbox.test(eve, "more", "https://quick/") == SendResult(received=False, detail=BUSY)
            event = f"{await at.run('quick', principal=eve)}_finished"
            each_to_one = [tested(ada, number, "one") for number in range(AT_ONCE_EACH)]
            at.tasks.update(each_to_one)
            await at.quiet()
            assert await at.outbox.test(ada, "more", "https://one/") == SendResult(received=False, detail=BUSY)
            assert len(at.sender.sent) == AT_ONCE_FOR_ONE + AT_ONCE_EACH
            at.sender.answer = lambda _: SendResult(received=True, detail="")
            at.sender.release.set()
            assert all(each.received for each in await asyncio.gather(*tests, *each_to_one))
            at.tasks.difference_update(tests, each_to_one)
            await at.quiet()
            assert at.sender.sent[-1].id == event
            assert (await at.outbox.test(eve, "more", "https://one/")).received

    asyncio.run(scene())


def test_all_events_are_sent_once_each_if_there_are_more_than_fit_into_memory() -> None:
    async def scene() -> None:
        async with Scene() as at:
            at.ready.started = False
            for number in range(3 * PAGE):
                await at.run("ab"[number % 2])
            await at.quiet()
            assert at.sender.sent == []
            at.ready.started = True
            at.outbox.tick()
            await at.quiet()
            assert len(at.sender.sent) == len({each.id for each in at.sender.sent}) == 3 * PAGE
            assert await at.left() == {}
            assert at.sender.most_at_once == 2 * AT_ONCE_EACH

    asyncio.run(scene())


def test_what_is_stored_later_overtakes_nothing_that_storage_has_for_the_same_receiver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if there are too many receivers to leave out of a read, and there is room for more of this one."""

    async def scene() -> None:
        monkeypatch.setattr(outbox_module, "MOST_EXCLUDED", 0)
        async with Scene() as at:
            at.ready.started = False
            expected = [f"{await at.run()}_finished" for _ in range(3 * PAGE)]
            at.ready.started = True
            received = SendResult(received=True, detail="")
            first = iter([received])
            at.sender.answer = lambda _: next(first, None)
            at.outbox.tick()
            await at.quiet()
            assert at.sender.at_once == 2
            for _ in range(20):
                at.clock.at += 0.01
                expected.append(f"{await at.run()}_finished")
            at.sender.answer = lambda _: received
            at.sender.release.set()
            await at.quiet()
            assert [each.id for each in at.sender.sent] == expected

    asyncio.run(scene())


def test_receivers_that_have_enough_are_left_out_of_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a look past a dead receiver does not read what waits for it, each time again."""

    async def scene() -> None:
        async with Scene() as at:
            at.sender.answer = lambda _: None
            at.ready.started = False
            for _ in range(2 * PAGE):
                await at.run("dead")
            at.ready.started = True
            at.outbox.tick()
            await at.quiet()
            read, rows = at.journal.read, 0

            async def counted(query: Any) -> Any:
                nonlocal rows
                found = await read(query)
                rows += len(found.deliveries)
                return found

            monkeypatch.setattr(at.journal, "read", counted)
            at.clock.at += LOOK_S
            at.outbox.tick()
            await at.run("other")
            await at.quiet()
            assert {each.url for each in at.sender.sent} == {"https://dead/", "https://other/"}
            assert rows <= 2

    asyncio.run(scene())


def test_events_of_another_servers_sessions_are_left_to_it_and_hide_none() -> None:
    async def scene() -> None:
        async with Scene() as at:
            at.mine.others = {"other"}
            for _ in range(600):
                await at.run("x", "other")
            mine = f"{await at.run('x', 'mine')}_finished"
            await at.quiet()
            assert [each.id for each in at.sender.sent] == [mine]
            at.mine.others = set()
            at.clock.at += 60
            at.outbox.tick()
            await at.quiet()
            assert len(at.sender.sent) == 601

    asyncio.run(scene())


def test_what_became_of_an_event_is_stored_once_the_journal_works_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile it is not sent again."""

    async def scene() -> None:
        async with Scene() as at:
            change = at.journal.change

            async def broken(_: Any) -> Any:
                raise JournalUnavailable("the disk is full")

            monkeypatch.setattr(at.journal, "change", broken)
            event = f"{await at.run()}_finished"
            await at.quiet()
            for _ in range(3):
                at.clock.at += 10
                at.outbox.tick()
                await at.quiet()
            assert len(at.sender.sent) == 1
            assert set(await at.left()) == {event}
            monkeypatch.setattr(at.journal, "change", change)
            at.outbox.tick()
            await at.quiet()
            assert await at.left() == {}
            assert len(at.sender.sent) == 1

    asyncio.run(scene())


def test_a_read_that_returns_after_an_event_was_received_does_not_send_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with Scene() as scene:
            held, read = asyncio.Event(), scene.journal.read
            await scene.quiet()
            scene.sender.answer = lambda _: None
            await scene.run()
            await scene.quiet()

            async def late(query: Any) -> Any:
                found = await read(query)
                await held.wait()
                return found

            monkeypatch.setattr(scene.journal, "read", late)
            scene.clock.at += LOOK_S
            scene.outbox.tick()
            await asyncio.sleep(0)
            scene.sender.answer = lambda _: SendResult(received=True, detail="")
            scene.sender.release.set()
            while scene.outbox.sent + scene.outbox.failed < 1:
                await asyncio.sleep(0)
            held.set()
            monkeypatch.undo()
            await scene.quiet()
            assert len(scene.sender.sent) == 1

    asyncio.run(main())

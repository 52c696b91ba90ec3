"""Whose event is sent next: turns among callers and receivers, and bounds, whatever happens in whatever order."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strandline._engine.webhooks.turns as module
from strandline._engine.webhooks.turns import AT_ONCE, AT_ONCE_AT_HOST, AT_ONCE_EACH, AT_ONCE_FOR_ONE, PATIENCE_S, Turns
from strandline._journal.port import StoredDelivery
from strandline._model import Principal, SessionId, SessionKey


class Scene:
    """Turns, and the events that are being sent."""

    def __init__(self) -> None:
        self.turns, self.now, self.made = Turns(), 0.0, 0
        self.sending: list[tuple[StoredDelivery, module.Sending]] = []

    def add(self, principal: str, host: str, count: int = 1) -> None:
        for _ in range(count):
            self.made += 1
            key = SessionKey(Principal(principal), SessionId("s"))
            stored = StoredDelivery(f"e{self.made}", key, host, 0.0, 0.0, 0, None, b"")
            self.turns.add((key.principal, host), stored)

    def send(self, most: int = 10_000) -> list[tuple[str, str]]:
        """Begin to send what may be sent; return whose events."""
        came: list[tuple[str, str]] = []
        while len(came) < most and (turn := self.turns.next(self.now)) is not None:
            self.sending.append(turn)
            came.append((str(turn[0].key.principal), turn[0].host))
        return came

    def end(self, index: int = 0, *, received: bool = True, is_silent: bool = False) -> None:
        _, sending = self.sending.pop(index)
        self.turns.end(sending, self.now, received=received, is_silent=is_silent)

    def widen(self, principal: str, host: str) -> None:
        """Have a receiver get as many events at once as one may."""
        for _ in range(8):
            self.add(principal, host)
            self.send()
            self.end()


def test_callers_and_their_receivers_take_turns() -> None:
    at = Scene()
    for principal, host in (("a", "x"), ("a", "y"), ("b", "z")):
        at.widen(principal, host)
    for principal, host in (("a", "x"), ("a", "y"), ("b", "z")):
        at.add(principal, host, 3)
    came = at.send()
    assert came[:4] == [("a", "x"), ("b", "z"), ("a", "y"), ("b", "z")]
    assert Counter(came) == {("a", "x"): 3, ("a", "y"): 3, ("b", "z"): 3}


def test_a_host_gets_a_bounded_number_from_all_callers() -> None:
    at = Scene()
    for number in range(6):
        at.widen(str(number), "x")
    for number in range(6):
        at.add(str(number), "x", AT_ONCE_EACH)
        at.add(str(number), "y")
    came = Counter(host for _, host in at.send())
    assert came == {"x": AT_ONCE_AT_HOST, "y": 6}
    at.end()
    assert at.send() != []


def test_a_place_for_a_test_is_one_like_others() -> None:
    at = Scene()
    receiver = (Principal("a"), "x")
    held = [at.turns.begin(receiver, 0.0) for _ in range(AT_ONCE_EACH + 1)]
    assert [each is None for each in held] == [False] * AT_ONCE_EACH + [True]
    at.add("a", "x")
    assert at.send() == []
    for each in held:
        if each is not None:
            at.turns.end(each, 0.0, received=False, is_silent=False)
    assert at.send() == [("a", "x")]


def test_only_the_latest_idle_receivers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KNOWN", 2)
    at = Scene()
    for host in ("x", "y", "z"):
        at.widen("a", host)
    for host, count in (("y", AT_ONCE_EACH), ("z", AT_ONCE_EACH), ("x", 1)):
        at.add("a", host, AT_ONCE_EACH)
        assert len(at.send()) == count, host


def test_what_hangs_leaves_room_in_memory_for_what_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within a caller; and what has no room any more, since its receiver hangs, leaves memory."""
    monkeypatch.setattr(module, "IN_MEMORY_FOR_ONE", 10)
    monkeypatch.setattr(module, "IN_MEMORY", 30)
    at = Scene()
    at.widen("a", "quick")
    hosts = [str(number) for number in range(40)]

    def fill(principal: str) -> int:
        added = 0
        for host in hosts:
            if at.turns.has_room((Principal(principal), host)):
                at.add(principal, host)
                added += 1
        return added

    assert fill("a") == 10
    assert fill("b") == 10
    assert fill("c") == 5, "half of what is free, so that there is some for another caller"
    assert at.turns.has_room((Principal("a"), "quick"))
    assert at.turns.has_few((Principal("a"), "quick"))
    assert not at.turns.has_few((Principal("a"), "new")), "until half of the room is free"
    at.send()
    assert at.turns.has_few((Principal("a"), "new"))
    for expected in (0, 10):
        assert fill("a") == 10, "beside those that hang by now"
        at.now += PATIENCE_S
        at.turns.tick(at.now)
        left = at.turns.take_left()
        assert len(left) == expected
        at.send()
        assert fill("a") == 10
        at.send()
    assert at.turns.take_left() == []


STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 5), st.integers(0, 3), st.integers(1, 40)),
    st.tuples(st.just("send"), st.integers(1, 50)),
    st.tuples(st.just("end"), st.integers(0, 500), st.booleans(), st.booleans()),
    st.tuples(st.just("tick"), st.sampled_from([0.1, PATIENCE_S, 10.0])),
)


@given(st.lists(STEPS, max_size=120), st.integers(10, 1000))
def test_no_event_is_lost_and_no_bound_is_broken(steps: list[tuple[object, ...]], in_memory: int) -> None:
    """And where nothing is being sent, something can be. What has left memory is read again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "IN_MEMORY_FOR_ONE", in_memory)
        patch.setattr(module, "IN_MEMORY", 4 * in_memory)
        _play(steps, in_memory)


def _play(steps: list[tuple[object, ...]], in_memory: int) -> None:
    at, came, waiting = Scene(), 0, Counter[str]()
    for step in steps:
        match step:
            case ("add", int(principal), int(host), int(count)):
                for _ in range(count):
                    if at.turns.has_room((Principal(str(principal)), str(host))):
                        at.add(str(principal), str(host))
                        waiting[str(principal)] += 1
            case ("send", int(most)):
                sent = at.send(most)
                came += len(sent)
                waiting.subtract(principal for principal, _ in sent)
            case ("end", int(index), bool(received), bool(is_silent)) if at.sending:
                at.end(index % len(at.sending), received=received, is_silent=is_silent)
            case ("tick", float(passed)):
                at.now += passed
                at.turns.tick(at.now)
        left = at.turns.take_left()
        came += len(left)
        waiting.subtract(str(each.key.principal) for each in left)
        assert all(count <= len(AT_ONCE) * in_memory for count in waiting.values())
        assert sum(waiting.values()) <= len(AT_ONCE) * 4 * in_memory
        places = Counter(sending.place for _, sending in at.sending)
        of_one = Counter((sending.place, sending.receiver[0]) for _, sending in at.sending)
        assert all(count <= AT_ONCE[kind] for kind, count in places.items())
        assert all(count <= AT_ONCE_FOR_ONE for count in of_one.values())
        assert all(count <= AT_ONCE_AT_HOST for count in Counter(s.receiver[1] for _, s in at.sending).values())
        assert all(count <= AT_ONCE_EACH for count in Counter(s.receiver for _, s in at.sending).values())
    while came < at.made:
        while at.sending:
            at.end()
        sent_now = len(at.send()) + len(at.turns.take_left())
        assert sent_now > 0
        came += sent_now

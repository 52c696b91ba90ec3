"""Where history continues with a message, as the list says that its client sent with it. Values only.

A client of a protocol without sessions sends all messages of its conversation each time. Its list is compared with the
turns of the session, on every branch: people switch between the versions of what they said. The agent is not to have
messages in mind that the list does not have, except those that its client cannot know of: they came another way, or
have no answer yet.
"""

from collections.abc import Iterator
from operator import itemgetter
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from strandline._journal.port import Conversation, Turned
from strandline._model import RunId

How = Literal["follow", "refuse"]
"""What becomes of a message whose list differs from history: history goes back with it, or it is refused."""


class ListedMessages(Struct, frozen=True):
    """The user's messages in a client's list before the last one, as plain texts.

    `is_cut`: earlier ones were left out for sure.
    """

    texts: tuple[str, ...]
    is_cut: bool
    how: How


class Continues(Struct, frozen=True):
    """History continues at its end."""


class GoesBack(Struct, frozen=True):
    """History continues after a run, None: from its beginning. `repeated` are runs of the next turn that the list still
    has: their inputs are said again."""

    after: RunId | None
    repeated: tuple[RunId, ...] = ()


class Differs(Struct, frozen=True):
    """History cannot continue as listed; `why` is for people."""

    why: str


class _Place(NamedTuple):
    """The place after what the first `parts` runs of a turn said; turn None: the beginning."""

    turn: int | None
    parts: int


_BEGINNING: Final = _Place(None, 0)


class _Fit(NamedTuple):
    """How well the conversation up to a place fits a list; the less, the better."""

    is_trimmed: bool
    """Whether the list begins later."""
    is_off: bool
    """Whether the place is superseded."""
    skipped: int
    """How many messages the list lacks."""


def place_in(conversation: Conversation, listed: ListedMessages) -> Continues | GoesBack | Differs:
    """Return where history continues with the message at the end of a list."""
    return _Comparison(conversation, listed).decide()


class _Comparison:
    """A session's turns beside a client's list."""

    def __init__(self, conversation: Conversation, listed: ListedMessages) -> None:
        self._turns = conversation.turns
        self._coming = conversation.coming
        self._is_whole = conversation.is_whole
        self._listed = listed
        self._count = len(listed.texts)
        self._end = _BEGINNING if conversation.end is None else self._after(conversation.end)
        self._on_course = {turn for turn, _, _ in self._up(self._end)}
        said = (each for turn in self._turns for each in turn.said)
        self._some_by_list = any(each.by_list for each in (*said, *self._coming))

    def decide(self) -> Continues | GoesBack | Differs:
        at_end = self._fit(self._end, coming=True)
        if at_end is not None and not at_end.is_trimmed:
            return Continues()
        if self._listed.how == "refuse":
            refused = f"{self._unlike()}; client_history is refuse: begin a new session, or list what it has"
            return Continues() if at_end is not None else Differs(refused)
        found = min(self._fitting(), key=itemgetter(0), default=None)
        if at_end is not None and (found is None or found[0].is_trimmed):
            return Continues()
        return self._going_to(self._last_common() if found is None else found[1])

    # -- lists that fit -------------------------------------------------------------------------------

    def _fitting(self) -> Iterator[tuple[_Fit, _Place]]:
        """Yield the places up to which the conversation is as listed, the latest first of those that are alike."""
        if not self._count:
            if not self._listed.is_cut:
                yield _Fit(False, False, 0), _BEGINNING
            return
        yield from ((fit, place) for place in self._like(self._count - 1) if (fit := self._fit(place)) is not None)

    def _fit(self, place: _Place, *, coming: bool = False) -> _Fit | None:
        """Return how the conversation up to a place, and what is still `coming`, fits the list; None: it does not."""
        left, skipped = self._count, 0
        before = (said for _, _, said in self._up(place))
        for said in (*reversed(self._coming if coming else ()), *before):
            if left and left - 1 in said.like:
                left -= 1
            elif self._may_lack(said) or (coming and any(said is each for each in self._coming)):
                skipped += 1
            elif left:
                return None
            else:
                may_begin_later = self._count > 0 or self._listed.is_cut
                return _Fit(True, self._is_off(place), skipped) if may_begin_later else None
        if left and self._is_whole:
            return None
        return _Fit(self._listed.is_cut, self._is_off(place), skipped)

    def _may_lack(self, said: Turned) -> bool:
        """Return whether a list may lack what a run said, since clients do not list it, or it came another way."""
        return not said.is_listed or said.run_id is None or (self._some_by_list and not said.by_list)

    # -- lists that do not ----------------------------------------------------------------------------

    def _last_common(self) -> _Place | None:
        """Return the place after the last listed message that some turn has, the beginning if none has; None: that
        cannot be said."""
        for number in range(self._count - 1, -1, -1):
            places = list(self._like(number))
            if places:
                return max(places, key=lambda place: (self._in_common(place), not self._is_off(place), place))
        return _BEGINNING if self._is_whole else None

    def _in_common(self, place: _Place) -> int:
        """Return how many listed messages the conversation up to a place has, in their order."""
        left, common = self._count, 0
        for _, _, said in self._up(place):
            if earlier := [number for number in said.like if number < left]:
                left, common = earlier[-1], common + 1
        return common

    def _going_to(self, place: _Place | None) -> Continues | GoesBack | Differs:
        if place is None:
            return Differs(f"{self._unlike()}; it is too long to be compared as a whole")
        if self._leads_to_end(place):
            return Continues()
        if place.turn is None:
            return GoesBack(None)
        said = self._turns[place.turn].said
        is_all = place.parts == len(said)
        previous = place.turn if is_all else self._turns[place.turn].before
        if previous is None and not self._is_whole:
            return Differs(f"{self._unlike()}; it is too long to be compared as a whole")
        repeated = [] if is_all else [each.run_id for each in said[: place.parts]]
        after = None if previous is None else self._turns[previous].said[0].run_id
        if (previous is not None and after is None) or None in repeated:
            return Differs(f"{self._unlike()}, where the run is not kept any more (setting run_retention)")
        return GoesBack(after, tuple(each for each in repeated if each is not None))

    def _leads_to_end(self, place: _Place) -> bool:
        """Return whether the list lacks only what its client cannot know of after a place."""
        for turn, parts, said in self._up(self._end):
            if (turn, parts) == place:
                return True
            if not self._may_lack(said):
                return False
        return place.turn is None

    def _unlike(self) -> str:
        return "the messages of the request are not those of the session"

    # -- the turns ------------------------------------------------------------------------------------

    def _after(self, turn: int) -> _Place:
        return _Place(turn, len(self._turns[turn].said))

    def _is_off(self, place: _Place) -> bool:
        return place.turn is not None and place.turn not in self._on_course

    def _like(self, number: int) -> Iterator[_Place]:
        """Yield the places after what is equal to a listed message, the latest first."""
        for turn in range(len(self._turns) - 1, -1, -1):
            for part, said in enumerate(self._turns[turn].said, 1):
                if number in said.like:
                    yield _Place(turn, part)

    def _up(self, place: _Place) -> Iterator[tuple[int, int, Turned]]:
        """Yield what was said in the conversation up to a place, the last one first, each with the place after it."""
        turn, parts = place
        while turn is not None:
            said = self._turns[turn].said
            yield from ((turn, part, said[part - 1]) for part in range(parts, 0, -1))
            turn = self._turns[turn].before
            parts = 0 if turn is None else len(self._turns[turn].said)

"""A client misses no event and gets none twice, wherever its session goes: of one run, and of all runs.

A stream is what one client received of a run, over all connections that it needed; a feed the same of all runs.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from judging.evidence import Event, Evidence, Feed, StoredEnd, Stream

AFTER_A_GAP = frozenset({"run.finished", "run.restarted", "stream.gap"})
"""What the client of a run can receive next when events of it are lost."""


def in_order(evidence: Evidence) -> Iterator[str]:
    """Yield the streams whose numbers do not rise, and those that do not end with the end of their run."""
    for stream in evidence.streams:
        numbers = [event.number for event in stream.events if event.number is not None]
        if any(later <= earlier for earlier, later in pairwise(numbers)):
            yield f"the numbers of the events of run {stream.run_id} do not rise: {numbers}"
        ends = [place for place, event in enumerate(stream.events) if event.kind == "run.finished"]
        if stream.is_whole and ends != [len(stream.events) - 1]:
            yield f"a client of run {stream.run_id} received {len(ends)} ends in {len(stream.events)} events"


def assembled(evidence: Evidence) -> Iterator[str]:
    """Yield the streams from which a client cannot put together what its run said and did."""
    for stream in evidence.streams:
        for fault in _Client(stream).faults():
            yield f"a client of run {stream.run_id} {fault}"


class _Client:
    """Does what a client should do by the documentation."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._text = ""
        self._messages: list[Any] = []
        self._tools: set[str] = set()
        """Those that have started and not finished."""
        self._has_all = True
        """Whether nothing is lost since the run, or its last attempt, began."""
        self._has_text = True
        """Whether nothing is lost of the text since the last message."""

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with what it has."""
        before = ""
        for event in self._stream.events:
            if before == "stream.gap" and event.kind not in AFTER_A_GAP:
                yield f"received a gap, and then {event.kind}"
            yield from self._received(event)
            before = event.kind

    def _received(self, event: Event) -> Iterator[str]:
        match event.kind:
            case "text.delta":
                self._text += event.text
            case "text.reset":
                self._text = ""
            case "run.restarted":
                self._text, self._messages, self._tools = "", [*event.messages], set()
                self._has_all = self._has_text = True
            case "stream.gap":
                self._has_all = self._has_text = False
            case "run.joined":
                self._joined(event)
            case "message.added":
                yield from self._added(event)
            case "tool.started":
                if event.tool in self._tools:
                    yield f"received twice that tool {event.tool} started"
                self._tools.add(event.tool)
            case "tool.finished":
                if self._has_all and event.tool not in self._tools:
                    yield f"received that tool {event.tool} finished, and not that it started"
                self._tools.discard(event.tool)
            case "run.finished":
                yield from self._finished(event)

    def _added(self, event: Event) -> Iterator[str]:
        message = event.messages[0]
        self._messages.append(message)
        if message["role"] == "assistant":
            said = "".join(block["text"] for block in message["content"] if "text" in block)
            if self._has_text and self._text != said:
                yield f"read {self._text!r}, and the message is {said!r}"
            self._text, self._has_text = "", True

    def _joined(self, event: Event) -> None:
        """Add what a run says to the last message; from where its own run joins another, all is the other one's."""
        if event.joining == self._stream.run_id or not event.messages or not self._messages:
            self._has_all = self._has_text = False
        else:
            last, (said,) = self._messages[-1], event.messages
            self._messages[-1] = {**last, "content": [*last["content"], *said["content"]]}

    def _finished(self, event: Event) -> Iterator[str]:
        history = self._stream.history
        if history is None or not self._has_all or event.end is None or event.end.kind != "succeeded":
            return  # (of what a server was about to store when it died it may have shown more than is stored)
        if [*map(_bare, self._messages)] != [*map(_bare, history)]:
            yield f"has {len(self._messages)} messages of it, and they are not the {len(history)} of history"


def _bare(message: Any) -> Any:
    return message["role"], message["content"]


def fed(evidence: Evidence) -> Iterator[str]:
    """Yield the ends that a feed has not shown although nothing of it is lost, and those that it has shown twice."""
    for feed in evidence.feeds:
        yield from _numbered(feed)
        shown = Counter(event.run_id for event in feed.events if event.kind == "run.finished")
        yield from (f"{feed.name} showed the end of run {run_id} {n} times" for run_id, n in shown.items() if n > 1)
        gaps: dict[int, int] = {}
        """By server: where the first gap of its events is."""
        for place, event in enumerate(feed.events):
            for server in event.servers:
                gaps.setdefault(server, place)
        for end in evidence.stored_ends:
            run = evidence.runs.get(end.run_id)
            if run is None or end.run_id in shown or not (feed.began < run.request.sent and end.place < feed.ended):
                continue
            if end.server not in gaps:
                yield f"{feed.name} showed neither the end of run {run.label} nor a gap of its server, {end.server}"
            elif (later := _shown_before(evidence, feed, end, gaps[end.server])) is not None:
                yield f"{feed.name} showed the end of run {later}, and before that neither {run.label} nor a gap"


def _shown_before(evidence: Evidence, feed: Feed, end: StoredEnd, gap: int) -> str | None:
    """Return a run that was shown before a gap, was requested after an end, and ended at the same server, if any."""
    shown = {event.run_id for event in feed.events[:gap] if event.kind == "run.finished"}
    for other in evidence.stored_ends:
        if other.server == end.server and other.run_id in shown and other.run_id in evidence.runs:
            run = evidence.runs[other.run_id]
            if end.place < run.request.sent < other.place:
                return run.label
    return None


def _numbered(feed: Feed) -> Iterator[str]:
    """Yield the ids of a feed that repeat one, or go back to an earlier one."""
    last: dict[int, int] = {}
    for event in feed.events:
        if not event.numbers:
            continue
        if any(number < last.get(server, 0) for server, number in event.numbers.items()):
            yield f"{feed.name} goes back from {last} to {event.numbers}"
        if event.numbers == last and event.kind != "stream.gap":  # (of a server that no id has named yet)
            yield f"{feed.name} has two events with the id {last}"
        last = {**event.numbers}

"""The suite: what is done to a server, and what its answers say about it. Every finding is a verdict with a reason."""

import asyncio
import secrets
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from strandline._check.adapters import AdapterError, Ask
from strandline._check.asking import Answered, Asker, Rejected, Reply, Unanswered, Unreachable
from strandline.errors import SetupError

AT_ONCE: Final = 5
GAP_S: Final = 0.1
"""Between two requests whose order is looked at."""
SLOW_S: Final = 0.6
SENT_A_SECOND: Final = 40
"""Requests that are sent at once reach the server faster than this."""
ACCEPTED_WITHIN_S: Final = 10.0
"""How long a session may be busy with what a client has left."""
ARRIVED_S: Final = 2.0
"""After so long a request has reached the server, however busy the machine is."""
BACK_S: Final = 90.0
"""How long a server may take to come back."""
_SERVE_IT: Final = (
    "The answers of another agent say nothing about a server: serve strandline.testing.probe:make_agent there"
    " in its place, and check again"
)


class Verdict(StrEnum):
    """What was found."""

    HOLDS = "holds"
    BREAKS = "breaks"
    UNKNOWN = "cannot be told"


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise that a server may make, whether it holds, and what was seen."""

    name: str
    promise: str
    verdict: Verdict
    seen: str
    tried: bool = True
    """False where nobody has said how to try it: then it says nothing of the server."""


PROMISES: Final = {
    "exclusive": "one request of a session is worked on at a time",
    "answered": "requests that come meanwhile are answered, each with its own answer",
    "order": "they are worked on in the order in which they came",
    "conversation": "the agent saw each of them once, in a well-formed conversation",
    "failure": "after a request that failed the next one finds a well-formed conversation",
    "disconnect": "a client that leaves does not break what comes after it",
    "isolation": "sessions see nothing of each other",
    "parallel": "a slow session does not delay another one",
    "bounded": "requests over a limit are refused, not kept in memory",
    "restart": "a conversation outlives a restart",
    "accepted": "what waited when the server was restarted is done after it",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the suite does: `restart` is a command, `flood` how many requests try whether there is a bound."""

    restart: str | None = None
    flood: int = 300
    patience_s: float = 60.0
    key: str | None = field(default=None, repr=False)
    """Shown to the server as `Authorization: Bearer KEY`."""


class NoProbe(SetupError):
    """The server does not serve the probe, so its answers say nothing; the message says what to serve."""

    code = "no_probe"


async def examine(url: str, ask: Ask, plan: Plan) -> AsyncIterator[Finding]:
    """Yield findings as they are made.

    Raises `AdapterError` if nothing can be asked there, `NoProbe` if another agent answers. A Strandline server says
    in its health which it is, and its agent is asked nothing then; any other agent gets one question.
    """
    asker = Asker(url, ask, patience_s=plan.patience_s, key=plan.key)
    suite = _Suite(asker, plan)
    try:
        if await asker.announces_another_agent():
            raise NoProbe(f"{url} serves another agent than the probe, and nothing was sent to it. {_SERVE_IT}")
        first = await asker.ask(suite.session("first"), "first")
        if isinstance(first, Unreachable):
            raise AdapterError(f"nothing answers at {url} ({first.why}). Start the server, and name its address")
        if not isinstance(first, Answered):
            raise AdapterError(f"the first request to {url} was not answered: {first.why}. Is it the right adapter?")
        if first.probe is None:
            raise NoProbe(
                f"the server at {url} does not serve the probe (it answered {first.text[:60]!r}). {_SERVE_IT}"
            )
        for part in (suite.at_once, suite.failure, suite.disconnect, suite.sessions, suite.bounded, suite.restart):
            for finding in await part():
                yield finding
    finally:
        await asker.close()


class _Suite:
    def __init__(self, asker: Asker, plan: Plan) -> None:
        self._asker = asker
        self._plan = plan
        self._name = f"check-{secrets.token_hex(4)}"

    def session(self, name: str) -> str:
        return f"{self._name}-{name}"

    async def at_once(self) -> list[Finding]:
        """Send five requests to one session, in a known order, and one when all is over."""
        session = self.session("at-once")
        labels = [f"q{number}" for number in range(1, AT_ONCE + 1)]
        async with asyncio.TaskGroup() as group:
            sent = []
            for number, label in enumerate(labels):
                wait_s = SLOW_S if number == 0 else GAP_S
                sent.append(group.create_task(self._asker.ask(session, label, wait_s=wait_s)))
                await asyncio.sleep(GAP_S)
        came = [each.result() for each in sent]
        after = await self._asker.ask(session, "after")
        probes = [each.probe for each in came if isinstance(each, Answered) and each.probe is not None]
        own = [each for each in came if isinstance(each, Answered) and each.probe and each.probe["probe"] == each.label]
        begun = sorted(probes, key=lambda each: each["begun"])
        crossing = sum(
            late["begun"] < max(early["ended"] for early in begun[:index])
            for index, late in enumerate(begun)
            if index > 0
        )
        started = [str(each["probe"]) for each in begun]
        labels = [str(each.label) for each in own]
        return [
            _finding("exclusive", _if(not crossing), _pairs(crossing, len(probes)))
            if probes
            else _finding("exclusive", Verdict.UNKNOWN, f"none was worked on{_reason(came)}"),
            _finding("answered", _if(len(own) == AT_ONCE), f"{len(own)} of {AT_ONCE} had their answer{_reason(came)}"),
            _judge("order", started, sorted(started), f"begun as {', '.join(started)}")
            if len(started) > 1
            else _finding("order", Verdict.UNKNOWN, "fewer than two were worked on"),
            _conversation("conversation", after, labels),
        ]

    async def failure(self) -> list[Finding]:
        session = self.session("failure")
        await self._asker.ask(session, "before")
        await self._asker.ask(session, "fails", fail=True)
        after = await self._asker.ask(session, "after")
        return [_conversation("failure", after, ["before"])]

    async def disconnect(self) -> list[Finding]:
        session = self.session("disconnect")
        await self._asker.ask(session, "before")
        leaves = asyncio.ensure_future(self._asker.ask(session, "leaves", wait_s=SLOW_S))
        await asyncio.sleep(SLOW_S / 3)
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
        after = await self._asker.taken(session, "after", ACCEPTED_WITHIN_S)  # what the client has left may continue
        again = await self._asker.ask(session, "again")
        first = _conversation("disconnect", after, ["before"])
        return [
            first if first.verdict is not Verdict.HOLDS else _conversation("disconnect", again, ["before", "after"])
        ]

    async def sessions(self) -> list[Finding]:
        slow, quick = self.session("slow"), self.session("quick")
        async with asyncio.TaskGroup() as group:
            first = group.create_task(self._asker.ask(slow, "slow", wait_s=2 * SLOW_S))
            await asyncio.sleep(GAP_S)
            others = [group.create_task(self._asker.ask(quick, f"quick{number}")) for number in (1, 2)]
        afterwards = [await self._asker.ask(session, "after") for session in (slow, quick)]
        probes = [each.probe for each in afterwards if isinstance(each, Answered) and each.probe is not None]
        foreign = sum(int(each["foreign"]) for each in probes)
        isolation = _finding(
            "isolation",
            _if(not foreign) if len(probes) == len(afterwards) else Verdict.UNKNOWN,
            f"{foreign} messages of another session were seen" if probes else f"not answered{_reason(afterwards)}",
        )
        ends = [each.result() for each in (first, *others)]
        ended = [each.probe["ended"] if isinstance(each, Answered) and each.probe else None for each in ends]
        quick_ends = [each for each in ended[1:] if each is not None]  # of two at once, one may be refused
        if ended[0] is None or not quick_ends:
            return [isolation, _finding("parallel", Verdict.UNKNOWN, f"not answered{_reason(ends)}")]
        early = min(quick_ends) < ended[0]
        detail = "a quick request ended while a slow one was worked on" if early else "a quick request waited for it"
        return [isolation, _finding("parallel", _if(early), detail)]

    async def bounded(self) -> list[Finding]:
        session = self.session("bounded")
        async with asyncio.TaskGroup() as group:
            busy_s = 2 * SLOW_S + self._plan.flood / SENT_A_SECOND  # all are sent before the first one ends
            sent = [group.create_task(self._asker.ask(session, "first", wait_s=busy_s))]
            await asyncio.sleep(GAP_S)
            sent += [group.create_task(self._asker.ask(session, f"n{n}")) for n in range(self._plan.flood)]
        came = [each.result() for each in sent[1:]]
        refused = [each for each in came if isinstance(each, Rejected)]
        if not refused:
            failed = sum(not isinstance(each, Answered) for each in came)
            detail = f"none of {len(came)} was refused" + (f", {failed} failed{_reason(came)}" if failed else "")
            return [_finding("bounded", Verdict.UNKNOWN if failed == len(came) else Verdict.BREAKS, detail)]
        hint = " with Retry-After" if all(each.retry_after for each in refused) else " without Retry-After"
        return [_finding("bounded", Verdict.HOLDS, f"{len(refused)} of {len(came)} were refused{hint}")]

    async def restart(self) -> list[Finding]:
        command = self._plan.restart
        if command is None:
            detail = "say how to restart it: --restart COMMAND"
            return [replace(_finding(name, Verdict.UNKNOWN, detail), tried=False) for name in ("restart", "accepted")]
        session = self.session("restart")
        await self._asker.ask(session, "remember")
        back, accepted = await self._restart(command, session, self.session("accepted"), GAP_S)
        if accepted.verdict is Verdict.BREAKS:  # unless they were still on their way: what loses them does so again
            _, accepted = await self._restart(command, session, self.session("accepted2"), ARRIVED_S)
        return [_conversation("restart", back, ["remember"]), accepted]

    async def _restart(self, command: str, session: str, queued: str, gap_s: float) -> tuple[Reply, Finding]:
        """Restart the server with two requests that wait in `queued`, sent `gap_s` before; return what `session`
        answers then, and what became of those."""
        sent = [asyncio.ensure_future(self._asker.ask(queued, "working", wait_s=SLOW_S))]
        await asyncio.sleep(gap_s)
        sent += [asyncio.ensure_future(self._asker.ask(queued, f"waits{number}")) for number in (1, 2)]
        await asyncio.sleep(gap_s)
        done = await asyncio.to_thread(
            subprocess.run, command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False
        )
        if done.returncode != 0:
            raise AdapterError(f"the command of --restart ended with exit code {done.returncode}: {command}")
        back = await self._asker.back(session, "after", BACK_S)
        last = await self._asker.ask(queued, "after")
        await asyncio.wait(sent, timeout=SLOW_S)
        ended = [each.result() for each in sent if each.done()]
        answered = {each.label for each in ended if isinstance(each, Answered)}
        refused = [each for each in ended if isinstance(each, Rejected)]
        for each in sent:
            each.cancel()
        await asyncio.gather(*sent, return_exceptions=True)
        seen = set(last.probe["before"]) if isinstance(last, Answered) and last.probe else set()
        waited = {"waits1", "waits2"} - {each.label for each in refused}
        lost = sorted(waited - seen - answered)
        detail = f"{' and '.join(lost)} never reached the agent" if lost else "all that waited were done"
        if waited:
            accepted = _finding("accepted", _if(not lost), detail)
        else:
            accepted = _finding("accepted", Verdict.UNKNOWN, f"nothing waited{_reason(refused)}")
        return back, accepted


def _conversation(name: str, after: Reply, expected: Sequence[str]) -> Finding:
    """Judge a conversation by what the agent saw before its last question."""
    if not isinstance(after, Answered):
        return _finding(name, Verdict.BREAKS, f"the next request was not answered: {after.why}")
    if after.probe is None:
        return _finding(name, Verdict.BREAKS, f"the next request got {after.text[:60]!r}")
    before = [str(each) for each in after.probe["before"]]
    missing = [each for each in expected if each not in before]
    twice = sorted({each for each in before if before.count(each) > 1})
    faults = [f"{', '.join(missing)} missing"] if missing else []
    faults += [f"{', '.join(twice)} seen twice"] if twice else []
    faults += [] if after.probe["sound"] else ["roles do not take turns"]
    return _finding(
        name, _if(not faults), "; ".join(faults) or f"the next request saw {', '.join(before) or 'nothing'}"
    )


def _judge(name: str, found: Sequence[str], right: Sequence[str], detail: str) -> Finding:
    return _finding(name, _if(list(found) == list(right)), detail)


def _finding(name: str, verdict: Verdict, seen: str) -> Finding:
    return Finding(name, PROMISES[name], verdict, seen)


def _if(holds: bool) -> Verdict:
    return Verdict.HOLDS if holds else Verdict.BREAKS


def _pairs(crossing: int, worked: int) -> str:
    return f"{crossing} of {worked} began before another had ended" if crossing else f"none of {worked} overlapped"


def _reason(came: Sequence[Reply]) -> str:
    """Return why requests have no answer, by the first of them that has a reason."""
    for each in came:
        if isinstance(each, (Rejected, Unanswered, Unreachable)):
            return f" ({'refused' if isinstance(each, Rejected) else 'failed'}: {each.why[:80]})"
    return ""

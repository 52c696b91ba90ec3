"""Plays the scenarios on a server: sends the requests, causes the scenario's failure, and records what happens.

It waits for events and never sleeps: the model answers when all five requests are in the server, and the server is
killed when the ledger shows that the tool of seat 2 has started (or that nothing executes any more).
"""

import http.client
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import replace

from strandline._demo.race import ledger
from strandline._demo.race.agent import FAILS, KILLED, ask
from strandline._demo.race.processes import Contestant
from strandline._demo.race.record import ClientResult, Invocation, Request, Scenario, Trial

REQUESTS: Final = 5
STRUCK: Final = 2
"""The seat whose request fails, or in whose tool the server is killed."""
BESIDES: Final = {Scenario.TOGETHER: "", Scenario.FAILURE: FAILS, Scenario.KILL: KILLED}
"""What the struck request says in addition."""
NEXT: Final = REQUESTS + 1


class LiveTrial:
    """A scenario that is being played on one server; `seen` may be called from another thread."""

    def __init__(self, contestant: Contestant, scenario: Scenario) -> None:
        self._on = contestant
        self._scenario = scenario
        self._began = 0.0
        self._requests: dict[int, Request] = {}
        self._threads: list[threading.Thread] = []
        self._killed_at: float | None = None
        self._ready_at: float | None = None
        self._history: Sequence[Any] = ()
        self._over = False
        self.note = ""

    def play(self) -> Trial:
        """Play the scenario to its end and return the record."""
        self._began = time.monotonic()
        self.note = "requests arrive"
        for seat in range(1, REQUESTS + 1):
            self._send(seat, BESIDES[self._scenario] if seat == STRUCK else "")
            self._on.until(lambda sent=seat: self._arrived() >= sent, f"request {seat} is inside")  # type: ignore[misc]
        ledger.gate(self._on.folder, self._scenario).touch()
        self.note = "the agent works"
        if self._scenario is Scenario.KILL:
            self._kill_and_start()
        for thread in self._threads:
            thread.join()
        self._on.until(lambda: self._on.executing() == 0, "nothing executes any more")
        query = {"session_id": self._scenario.value, "count": "0", "include_tool_messages": "true"}
        self._history = self._on.get("/history", **query)["messages"]
        self.note = "one more message"
        self._send(NEXT)
        self._threads[-1].join()
        self._over, self.note = True, ""
        return self.seen()

    def seen(self) -> Trial:
        """Return the record so far."""
        steps = ledger.read(self._on.folder, self._scenario)
        ends = {step.invocation: step for step in steps if step.what in ("ended", "failed")}
        invocations = [
            Invocation(
                seat=step.seat,
                begun_at=self._since(step.at),
                ended_at=self._since(ends[step.invocation].at) if step.invocation in ends else None,
                failed=step.invocation in ends and ends[step.invocation].what == "failed",
            )
            for step in steps
            if step.what == "begun"
        ]
        requests = dict(self._requests)
        return Trial(
            server=self._on.server,
            scenario=self._scenario,
            requests=[requests[seat] for seat in sorted(requests) if seat != NEXT],
            invocations=[invocation for invocation in invocations if invocation.seat != NEXT],
            tools=[step.seat for step in steps if step.what == "tool" and step.seat != NEXT],
            killed_at=self._killed_at,
            ready_at=self._ready_at,
            history=self._history,
            following=requests.get(NEXT),
            note=self.note,
            over=self._over,
        )

    def _arrived(self) -> int:
        """Return how many requests are in the server or were answered; a refusal comes at once."""
        return self._on.executing() + sum(request.ended_at is not None for request in list(self._requests.values()))

    def now(self) -> float:
        """Return the seconds since the start."""
        return self._since(time.monotonic()) if self._began else 0.0

    def _since(self, at: float) -> float:
        return round(at - self._began, 3)

    def _kill_and_start(self) -> None:
        def in_its_tool() -> bool:
            steps = ledger.read(self._on.folder, self._scenario)
            return any(step.what == "tool" and step.seat == STRUCK for step in steps) or not any(
                thread.is_alive() for thread in self._threads
            )

        self._on.until(in_its_tool, f"the tool of seat {STRUCK} has started")
        self._on.kill()
        self._killed_at = self.now()
        ledger.killed(self._on.folder).touch()
        self.note = "killed with kill -9; it starts again"
        for thread in self._threads:
            thread.join()
        self._on.start()
        self._ready_at = self.now()
        self.note = "it runs again"

    def _send(self, seat: int, besides: str = "") -> None:
        text = ask(seat, besides)
        self._requests[seat] = Request(seat=seat, question=text, fails=besides == FAILS, sent_at=self.now())
        thread = threading.Thread(target=self._wait_for_answer, args=(seat, text), name=f"client-{seat}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _wait_for_answer(self, seat: int, text: str) -> None:
        try:
            status, body = self._on.exchange("POST", "/chat", {"message": text, "session_id": self._scenario.value})
        except (OSError, http.client.HTTPException, ValueError) as error:
            got, said = ClientResult.NOTHING, type(error).__name__
        else:
            answered = status == 200 and body.get("status") == "success"
            got, said = ClientResult.ANSWER if answered else ClientResult.ERROR, str(body.get("response", body))
        self._requests[seat] = replace(self._requests[seat], ended_at=self.now(), got=got, text=said)

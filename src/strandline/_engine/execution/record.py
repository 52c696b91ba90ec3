"""The record of one claim on its way to an outcome: its user code on the agent loop, and its time box.

A run in its time box is undisturbed until its deadline, or until its end is requested. Then follows the shutdown
sequence, with a grace of some seconds: signal (set the cancel signal); shortly before the grace is over, cancel the
task, and again (an async tool may swallow one); when it is over, abandon: the run ends whatever its task still does.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec import Struct

from strandline._agents.port import AgentLost, Finished, RunStopped, SessionAgent
from strandline._engine.execution.attempt import LiveAttempt
from strandline._engine.execution.completion import timed_out
from strandline._engine.execution.failures import failed
from strandline._engine.execution.pool import AgentPool
from strandline._engine.loops import Call, CallCancelled, Loops
from strandline._engine.observers import TracedRun
from strandline._journal.errors import ClaimLost
from strandline._model import Claim, Ending, ErrorCode, Failed, NeedsInput, Succeeded
from strandline.errors import JournalUnavailable, RecordDamaged

_log = logging.getLogger("strandline.runner")

SOON_S: Final = 2.5
"""How long before its deadline a run gets a timer of its own: most end long before, and never need one."""
CANCEL_LEAD_S: Final = 0.2
"""How long before the end of the grace a run's task is cancelled."""
CANCEL_AGAIN_S: Final = 0.1
"""How long after that it is cancelled again: an async tool may swallow the first."""
STOPPED: Final = Failed(ErrorCode.STOPPED, "the server was stopped")


class Execution(Struct, eq=False):
    """Belongs to the serving loop, except for `_run`, which is on the agent loop."""

    attempt: LiveAttempt
    _pool: AgentPool
    _loops: Loops
    traced: TracedRun
    started: float
    """When it was prepared, on the monotonic clock."""
    deadline: float | None = None
    """When it must have ended, on the monotonic clock; None also once a timer watches it."""
    requested_ending: Ending | None = None
    """The ending that was requested, if any."""
    begun: bool = False
    """Whether the agent may have done anything."""
    loop_lost: bool = False
    """Whether it ends because its agent loop was given up, or died with its process."""
    agent_is_current: bool = False
    """Whether the agent has the conversation as history has it."""
    stall_reported: bool = False
    """Whether it was reported as stalled."""
    blocker_logged: bool = False
    """Whether the log has named it as the one that blocks its loop."""
    _agent: SessionAgent | None = None
    _timers: list[asyncio.TimerHandle] = []
    _left_at: float | None = None
    _call: Call[Finished] | None = None

    @property
    def claim(self) -> Claim:
        """The claim that it executes."""
        return self.attempt.claim

    @property
    def lingering_call(self) -> Call[Finished] | None:
        """Its call, if that still executes."""
        return self._call if self._call is not None and self._call.is_alive else None

    @property
    def call(self) -> Call[Finished]:
        """Its user code; it was started."""
        assert self._call is not None
        return self._call

    def start(self, agent: SessionAgent | None) -> None:
        """Begin on the agent loop, with the session's agent or with one that is built there."""
        self.traced.executes()
        self._call = self._loops.start(partial(self._run, agent))

    async def finished(self) -> Finished:
        """Wait for the end; the requested ending counts, unless the run came to a good end of its own.

        A run that was to end before its start does not begin.
        """
        finished = Finished(ending=self.requested_ending or STOPPED)
        if self._call is not None:
            try:
                finished = await self._call.done
            except CallCancelled:  # before its first step
                finished = Finished(ending=Failed(ErrorCode.AGENT_ERROR, "the run was cancelled before it began"))
            finally:
                self._disarm()
        self.attempt.freeze()
        if self.requested_ending is None or isinstance(finished.ending, Succeeded | NeedsInput):
            return finished
        return Finished(ending=self.requested_ending, usage=finished.usage)

    def watch_deadline(self, now: float, grace_s: float) -> None:
        """End the run as timed out at its deadline, within `grace_s` seconds, if that is soon."""
        if self.deadline is not None and self.deadline < now + SOON_S:
            self._arm(max(0.0, self.deadline - now), partial(self.end, timed_out(self.claim.run), grace_s))
            self.deadline = None

    def end(self, ending: Ending, grace_s: float) -> None:
        """End the run within `grace_s` seconds. The first ending counts, and the shortest grace."""
        now = asyncio.get_running_loop().time()
        if self._left_at is not None and self._left_at <= now + grace_s:
            return
        self.requested_ending = self.requested_ending or ending
        self._left_at = now + grace_s
        self.attempt.stopping = True
        self.attempt.signal.set()
        self._disarm()
        self._arm(max(0.0, grace_s - CANCEL_LEAD_S), self._cancel)
        self._arm(max(0.0, grace_s - CANCEL_LEAD_S + CANCEL_AGAIN_S), self._cancel)
        self._arm(grace_s, self._leave)

    def abandon(self, ending: Failed) -> None:
        """End the run at once, because its agent loop was given up; an ending that was requested before counts."""
        self._lose_loop(ending)
        self._leave()

    def _lose_loop(self, ending: Failed) -> Ending:
        """Note that it has lost its loop; return its ending."""
        self.loop_lost = self.requested_ending is None
        self.requested_ending = self.requested_ending or ending
        return self.requested_ending

    def release_agent(self) -> SessionAgent | None:
        """Hand over the agent; the execution has ended or was abandoned."""
        agent, self._agent = self._agent, None
        return agent

    # -- the shutdown sequence --------------------------------------------------------------------------------

    def _arm(self, delay_s: float, act: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, act))

    def _disarm(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _cancel(self) -> None:
        if not self.call.done.done():
            self._loops.cancel(self.call)

    def _leave(self) -> None:
        self.call.abandon(Finished(ending=self.requested_ending or STOPPED))

    # -- on the agent loop -------------------------------------------------------------------------

    async def _run(self, agent: SessionAgent | None) -> Finished:
        """Build the agent if need be, run it, and return every ending as a value."""
        attempt = self.attempt
        try:
            if agent is None:
                agent = await self._pool.build(attempt)
            self._agent = agent
            del agent
            self.begun = True  # before the check: `end` does both in the other order
            if attempt.stopping:  # (also if the factory has swallowed the cancel)
                self.begun = False
                return Finished(ending=STOPPED)
            if isinstance(given := self.claim.run.input, list):
                await attempt.copy_files(given)
            return await self._agent.run(attempt)
        except asyncio.CancelledError:
            return Finished(ending=Failed(ErrorCode.AGENT_ERROR, "the agent's own code cancelled its task"))
        except RunStopped:
            return Finished(ending=STOPPED)
        except AgentLost as lost:
            return Finished(ending=self._lose_loop(Failed(ErrorCode.CRASHED, str(lost))))
        except RecordDamaged as error:
            return Finished(ending=Failed(ErrorCode.CRASHED, str(error)))
        except (ClaimLost, JournalUnavailable) as error:
            return Finished(ending=Failed(ErrorCode.AGENT_ERROR, str(error)))
        except BaseException as error:
            # Also SystemExit: a tool that calls sys.exit() fails its own run only.
            if self.requested_ending is None:
                _log.debug("run %s failed here", attempt.context.run_id, exc_info=error)
            return Finished(ending=failed(error))

"""What is watched of runs that execute: whether they give signs of life, and whether one blocks the loop of all."""

import logging
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from strandline._clock import Clock
from strandline._engine.execution import Execution, Holds, Runner
from strandline._engine.loops import Call, Loops
from strandline._engine.options import Options
from strandline._engine.streams import Streams
from strandline._model import Cancelled, ErrorCode, Failed

_log = logging.getLogger("strandline.runner")

SILENT_S: Final = 1.0
"""How long an agent loop is silent before whoever blocks it is named, and at least before it is given up."""


class Watchdog(Struct, eq=False):
    """Belongs to the serving loop."""

    _runner: Runner
    _holds: Holds
    _loops: Loops
    _streams: Streams
    _clock: Clock
    _options: Options
    stalls: int = 0
    """How many times a run has been found that gave no sign of life for too long."""

    async def tick(self) -> None:
        """Look at what executes, and at what still works of runs that have ended. To be called every second."""
        await self._name_who_blocks()
        self._loops.beat()
        leftovers = self._holds.lingering_calls()
        await self._report(leftovers)
        for call in leftovers:
            await self._replace_silent_loop(call, leftovers)

    async def _report(self, leftovers: Sequence[Call[Any]]) -> None:
        """Report runs that give no sign of life, once each, and cancel them if that is wanted.

        `leftovers` are the calls whose runs have ended and that still work: they may keep others out.
        """
        for execution in self._runner.executing():
            quiet_s = self._clock.monotonic() - execution.attempt.last_progress
            if quiet_s < self._options.stall_after_s:
                execution.reported = False
                continue
            if not execution.reported:
                execution.reported = True
                self.stalls += 1
                attempt = execution.attempt
                self._streams.stalled(attempt.context.run_id, quiet_s, attempt.phase)
                where = await self._where(execution.call)
                _log.warning(
                    "run %s has given no sign of life for %g s (in %s)%s",
                    attempt.context.run_id, round(quiet_s, 1), attempt.phase, where,
                )  # fmt: skip
            if self._options.stall_action == "cancel" and not self._is_kept_out(execution, leftovers):
                execution.end(Cancelled(), self._options.cancel_grace_s)

    def _is_kept_out(self, execution: Execution, leftovers: Sequence[Call[Any]]) -> bool:
        """Return whether a run is quiet because another one's code has the thread of their loop."""
        call = execution.call
        if self._loops.silent_s(call) < SILENT_S or self._loops.blocks(call):
            return False
        calls = [*(each.call for each in self._runner.executing()), *leftovers]
        return any(each.loop is call.loop and self._loops.blocks(each) for each in calls)

    async def _name_who_blocks(self) -> None:
        """Say in the log, once, which run's code keeps the loop that all agents share from everybody else."""
        for execution in self._runner.executing():
            call = execution.call
            if not execution.named and self._loops.silent_s(call) >= SILENT_S and self._loops.blocks(call):
                execution.named = True
                where = await self._where(call)
                _log.warning("run %s blocks the loop that all agents share%s", execution.attempt.context.run_id, where)

    async def _replace_silent_loop(self, call: Call[Any], leftovers: Sequence[Call[Any]]) -> None:
        """Give up the loop of a call that should have ended, if it has been silent for the whole grace and more.

        `leftovers` are all calls whose runs have ended and that still work, `call` among them.
        """
        patience_s = max(self._options.cancel_grace_s, SILENT_S)
        if self._loops.silent_s(call) < patience_s:
            return
        where = await self._where(call)
        if self._loops.silent_s(call) < patience_s:
            return  # it came back meanwhile
        _log.error("an agent loop is blocked for good and is given up:%s", where)
        there = [each for each in self._runner.executing() if each.call.loop is call.loop]
        blocking = [each for each in there if self._loops.blocks(each.call)]
        left = [each for each in leftovers if each.loop is call.loop and not self._loops.blocks(each)]
        dies = self._loops.replace(call)
        for each in there:
            if each in blocking:
                each.end(Failed(ErrorCode.AGENT_ERROR, "the run's code blocked the loop that all agents share"), 0.0)
            elif not dies:
                each.abandon(Failed(ErrorCode.CRASHED, "another run's code blocked the loop that all agents share"))
                each.call.disown_tasks()
        if not dies:
            for others in left:
                others.disown_tasks()

    async def _where(self, call: Call[Any]) -> str:
        """Return where a call's code is, for a message of the log."""
        return "".join(f"\n    {line}" for line in await self._loops.stack(call))

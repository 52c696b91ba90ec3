"""Watches executing runs: whether they give signs of life, and whether one blocks the loop of all."""

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
"""How long an agent loop is silent before the run that blocks it is logged, and at least before the loop is given
up."""


class Watchdog(Struct, eq=False):
    """Belongs to the serving loop."""

    _runner: Runner
    _holds: Holds
    _loops: Loops
    _streams: Streams
    _clock: Clock
    _options: Options
    stalls: int = 0
    """How many times a run has given no sign of life for too long."""

    async def tick(self) -> None:
        """Check the executing runs, and lingering ones. To be called every second."""
        await self._log_blocking_run()
        self._loops.beat()
        lingering = self._holds.lingering_calls()
        await self._report(lingering)
        for call in lingering:
            await self._replace_silent_loop(call, lingering)

    async def _report(self, lingering: Sequence[Call[Any]]) -> None:
        """Report runs without a sign of life, once each, and cancel them if `stall_action` says so.

        `lingering` are the calls of ended runs that still execute: they may keep others from running.
        """
        for execution in self._runner.executing():
            quiet_s = self._clock.monotonic() - execution.attempt.last_progress
            if quiet_s < self._options.stall_after_s:
                execution.stall_reported = False
                continue
            if not execution.stall_reported:
                execution.stall_reported = True
                self.stalls += 1
                attempt = execution.attempt
                self._streams.stalled(attempt.context.run_id, quiet_s, attempt.phase)
                where = await self._where(execution.call)
                _log.warning(
                    "run %s has given no sign of life for %g s (in %s)%s",
                    attempt.context.run_id, round(quiet_s, 1), attempt.phase, where,
                )  # fmt: skip
            if self._options.stall_action == "cancel" and not self._is_kept_out(execution, lingering):
                execution.end(Cancelled(), self._options.cancel_grace_s)

    def _is_kept_out(self, execution: Execution, lingering: Sequence[Call[Any]]) -> bool:
        """Return whether a run is quiet because another one's code has the thread of their loop."""
        call = execution.call
        if self._loops.silent_s(call) < SILENT_S or self._loops.blocks(call):
            return False
        calls = [*(each.call for each in self._runner.executing()), *lingering]
        return any(each.loop is call.loop and self._loops.blocks(each) for each in calls)

    async def _log_blocking_run(self) -> None:
        """Log, once, which run's code blocks the loop that all agents share."""
        for execution in self._runner.executing():
            call = execution.call
            if not execution.blocker_logged and self._loops.silent_s(call) >= SILENT_S and self._loops.blocks(call):
                execution.blocker_logged = True
                where = await self._where(call)
                _log.warning("run %s blocks the loop that all agents share%s", execution.attempt.context.run_id, where)

    async def _replace_silent_loop(self, call: Call[Any], lingering: Sequence[Call[Any]]) -> None:
        """Give up the loop of a call that should have ended, if it has been silent for the whole grace and more.

        `lingering` are all calls of ended runs that still execute, `call` among them.
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
        others = [each for each in lingering if each.loop is call.loop and not self._loops.blocks(each)]
        dies = self._loops.replace(call)
        for each in there:
            if each in blocking:
                each.end(Failed(ErrorCode.AGENT_ERROR, "the run's code blocked the loop that all agents share"), 0.0)
            elif not dies:
                each.abandon(Failed(ErrorCode.CRASHED, "another run's code blocked the loop that all agents share"))
                each.call.disown_tasks()
        if not dies:
            for other in others:
                other.disown_tasks()

    async def _where(self, call: Call[Any]) -> str:
        """Return where a call's code is, for a log message."""
        return "".join(f"\n    {line}" for line in await self._loops.stack(call))

"""The agent: found, imported and built once, in a process of its own, since that runs the user's code."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any, Final

from strandline._agents.load import default_target
from strandline._doctor.finding import Finding, note, ok, problem
from strandline._doctor.trial import KEYS
from strandline._settings import Settings
from strandline.errors import TargetError

TRIAL_LIMIT_S: Final = 20.0


class Trial:
    """A trial of TARGET, which runs while other checks are made."""

    def __init__(self, target: str | None, settings: Settings) -> None:
        self._named = target is not None
        self._missing: str | None = None
        self._process: subprocess.Popen[str] | None = None
        try:
            target = target or default_target()
        except TargetError as error:
            self._missing = str(error)
            return
        keys = [KEYS] if settings.has_keys else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "strandline._doctor.trial", target, settings.history, *keys],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C reaches it through us, and its own children end with it
        )

    def finding(self, limit_s: float = TRIAL_LIMIT_S) -> Finding:
        """Return the finding. The process has ended on return."""
        if self._process is None:
            return note("agent", self._missing or "")
        try:
            said, _ = self._process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return problem(
                "agent", f"not imported and built within {limit_s:g} s",
                "look for code that waits at import, or in the factory",
            )  # fmt: skip
        finally:
            self.stop()
        try:
            report: dict[str, Any] = json.loads(said)
        except ValueError:
            return problem("agent", f"the process that tried it ended with status {self._process.returncode}")
        return (ok if report["ok"] else problem)("agent", report["message"])

    def stop(self) -> None:
        """End the process and its children."""
        self.kill()
        if self._process is not None:
            self._process.communicate()

    def kill(self) -> None:
        """Kill them without waiting."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

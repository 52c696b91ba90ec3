"""What Schemathesis is told: half of all runs that it asks for are ones that there are, and no session stays paused."""

import os
from typing import Any

import httpx
import schemathesis

OK = 200
SHOWN = {"Authorization": f"Bearer {os.environ['KEY']}"}
RUNS = os.environ["KNOWN_RUNS"].split()


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Put a known run in the place of some ids: which ones depends on nothing but the id."""
    if path_parameters and isinstance(made := path_parameters.get("run_id"), str) and len(made) % 2:
        path_parameters["run_id"] = RUNS[len(made) % len(RUNS)]
    return path_parameters


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Let a session go on that was paused: every later run in it would wait until its client has no more patience."""
    if case.path.endswith("/pause") and response.status_code == OK:
        httpx.post(str(response.request.url).removesuffix("/pause") + "/resume", headers=SHOWN).raise_for_status()

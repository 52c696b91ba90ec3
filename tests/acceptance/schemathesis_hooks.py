"""What Schemathesis is told: half of all runs that it asks for are ones that there are, and no session stays paused.

No run is given so little time that it fails or not as the machine is busy: AgentCore's clients get 500 for that.
"""

import os
from typing import Any

import httpx
import schemathesis

OK = 200
SHOWN = {"Authorization": f"Bearer {os.environ['KEY']}"}
LEAST_S = 60.0
RUNS = os.environ["KNOWN_RUNS"].split()


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Put a known run in the place of some ids: which ones depends on nothing but the id."""
    if path_parameters and isinstance(made := path_parameters.get("run_id"), str) and len(made) % 2:
        path_parameters["run_id"] = RUNS[len(made) % len(RUNS)]
    return path_parameters


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Give every run time to end by itself. What is no limit stays as it is, to be refused."""
    for name in ("timeout", "queue_timeout"):
        if isinstance(body, dict) and isinstance(body.get(name), int | float) and 0 < body[name] < LEAST_S:
            body[name] = LEAST_S
    return body


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Let a session go on that was paused: every later run in it would wait until its client has no more patience."""
    if case.path.endswith("/pause") and response.status_code == OK:
        httpx.post(str(response.request.url).removesuffix("/pause") + "/resume", headers=SHOWN).raise_for_status()

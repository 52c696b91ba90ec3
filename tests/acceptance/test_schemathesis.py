"""A real server does for every request that its document allows, and for many that it does not, what is written there.

Schemathesis makes them, the same ones each time: no status that is not documented, no 500, every body and every event
as its schema says, what a schema forbids is refused, and what it allows is accepted; the twelve rules that no schema
can say are kept by `schemathesis_hooks`. A session that is not there, or no more, has no runs and no messages, where
Schemathesis wants a 404 (of the session itself there is one). The server has keys: what the document says needs one is
refused without.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

from acceptance.events import ACCEPT
from acceptance.server import DEADLINE_S, Server, environment, serving
from strandline._access.keyring import new_key

EXAMPLES: Final = "20"
"""Of each operation; about a thousand requests in all."""
ENDLESS: Final = "/v1/events"
UNMEANT: Final = "use_after_free,ensure_resource_availability"
"""Ids may be used again; `POST /v1/conversations` only names a conversation, which its first response begins."""
KEY, KEPT = new_key("schemathesis", operator=True)
SHOWN: Final = {"Authorization": f"Bearer {KEY}"}
AGENT: Final = """
async def answer(message, session):
    return f"you said {len(message)} characters"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("schemathesis")
    (folder / "agent.py").write_text(AGENT)
    with serving("agent.py:answer", "--api-keys", KEPT.line(), folder=folder) as server:
        server.client.headers.update(SHOWN)
        yield server


def test_every_answer_is_as_the_document_says(server: Server, tmp_path: Path) -> None:
    runs = [
        server.client.post("/chat", json={"message": "hello", "session_id": "s"}).json()["run_id"] for _ in range(2)
    ]
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
        *("--generation-deterministic", "--max-examples", EXAMPLES, "--phases", "examples,coverage,fuzzing,stateful"),
        *("--exclude-path", ENDLESS, "--exclude-checks", UNMEANT, "--no-shrink"),
        *("--header", f"Authorization: Bearer {KEY}"),
        *("--suppress-health-check", "all", "--request-timeout", str(DEADLINE_S), "--no-color"),
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(
            {"SCHEMATHESIS_HOOKS": "acceptance.schemathesis_hooks", "KNOWN_RUNS": " ".join(runs), "KEY": KEY}
        ),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(operations(server)) - 1} selected / {len(operations(server))} total" in done.stdout
    assert server.health()["status"] == "healthy"


def test_what_never_ends_begins_as_the_document_says(server: Server) -> None:
    """Schemathesis reads answers to their end, and this one has none: it is requested, read in part, and left."""
    document = server.client.get("/openapi.json").json()
    import schemathesis  # it takes seconds, and each process that shares the tests imports this module

    operation = schemathesis.openapi.from_dict(document)[ENDLESS]["GET"]
    described = document["paths"][ENDLESS]["get"]["responses"]
    seen = set()
    limits = httpx.Timeout(DEADLINE_S)

    with httpx.Client(base_url=server.url, timeout=limits, trust_env=False) as client:
        for mode in schemathesis.GenerationMode:

            @settings(
                derandomize=True,
                database=None,
                deadline=None,
                max_examples=int(EXAMPLES),
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case[Any]) -> None:
                made = case.as_transport_kwargs(base_url=server.url)
                headers = {**made["headers"], **ACCEPT, **SHOWN}
                with client.stream(made["method"], made["url"], params=made["params"], headers=headers) as answer:
                    seen.add(answer.status_code)
                    kind = answer.headers["content-type"].partition(";")[0]
                    assert kind in described[str(answer.status_code)]["content"]

            ask()
    assert seen >= {200, 422}


def operations(server: Server) -> list[str]:
    return [method for methods in server.client.get("/openapi.json").json()["paths"].values() for method in methods]

"""Messages that come close together are one turn of a real agent: each has its own run, and the answer of all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, Server, serving, texts

TARGET = TARGETS / "steered.py"
AT_ONCE = {"quiet": 0}
"""Nothing of these tests waits for a moment of silence: what executes keeps the turn from starting."""


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def accepted(server: Server, text: str, session_id: str = "s", **more: Any) -> dict[str, Any]:
    """Submit a run, and return it as it was accepted."""
    response = server.client.post(f"/v1/sessions/{session_id}/runs", json={"input": text, **more})
    assert response.status_code == 202, response.text
    body: dict[str, Any] = response.json()
    return body


def collect(server: Server, text: str, session_id: str = "s", **more: Any) -> dict[str, Any]:
    """Submit a run that collects."""
    return accepted(server, text, session_id, **{"if_busy": "collect", "collect": AT_ONCE, **more})


def ended(server: Server, *runs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return these runs once each has ended."""
    return [server.run(run["run_id"], wait_s=60) for run in runs]


def test_twenty_messages_are_one_turn_with_one_model_call(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGET, folder=tmp_path, variables=at.environment, installed=True) as server:
        at.hold("alone first")
        first = accepted(server, "first")
        at.reached("alone first")
        runs = [collect(server, f"m{number}") for number in range(20)]
        assert [(run["status"], run["position"], run["join"]) for run in runs[:2]] == [
            ("queued", 1, None),
            ("queued", 2, None),
        ]
        at.release()
        (_, head, *others) = ended(server, first, *runs)
        said = [f"m{number}" for number in range(20)]
        assert head["output"] == f"alone: {'; '.join(said)}"
        assert head["usage"] is not None
        for run in others:
            assert (run["status"], run["output"], run["usage"]) == ("succeeded", head["output"], None)
            assert (run["join"], run["joined"], run["attempt"]) == ("applied", head["run_id"], 0)
        assert at.steps == ["alone first", "alone m0"]
        assert [text.split("\n") for text in texts(server.history("s"), "user")] == [["first"], said]

"""`kill -9`, and times that are up afterwards."""

import time
from pathlib import Path

from acceptance.checkpoints import checkpoints
from acceptance.server import TARGETS, serving, texts, tool_results, until

QUEUE_TIMEOUT_S = 1.0


def test_a_run_that_was_started_has_waited_for_its_turn(tmp_path: Path) -> None:
    """Requeued by a crash it waits again, but not for its turn: what it did would be in no history if it were given
    up then. (Its time to wait is over when it waits for another run's last attempt to end.)"""
    with (
        checkpoints() as at,
        serving(TARGETS / "agent.py", "--max-attempts", "2", folder=tmp_path, variables=at.environment) as server,
    ):
        at.hold("one model 1", "two model 1")
        for name in ("one", "two"):
            body = {"message": f"{name} a", "session_id": name, "queue_timeout": QUEUE_TIMEOUT_S}
            server.submit(server.client.post, "/chat", json=body)
        at.reached("one model 1", "two model 1")
        over = time.monotonic() + QUEUE_TIMEOUT_S
        server.wait_until_stored()
        server.kill()
        server.start()
        until(lambda: time.monotonic() > over + 0.2, "their time to wait is over")
        server.wait_until_stored()
        assert server.inside() == 2
        at.release()
        server.quiet()
        runs = [server.run(run.run_id) for run in server.stored()]
        assert [(run["status"], run["output"]) for run in runs] == [
            ("succeeded", f"{run['session_id']}: did a") for run in runs
        ]
        for name in ("one", "two"):
            assert texts(server.history(name), "user") == [f"{name} a"]
            assert tool_results(server.history(name)) == ["did a"]

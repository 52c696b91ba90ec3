"""A real server's metrics, read with the parsers of Prometheus' own client."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, until

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def samples(server: Server) -> dict[str, float]:
    """Return every sample, by its name and the values of its labels, in their order by name."""
    answer = server.client.get("/metrics").raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        " ".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): sample.value
        for family in parse_text(answer.text)
        for sample in family.samples
    }


def test_a_server_counts_what_it_does_and_has_done(at: Checkpoints, tmp_path: Path) -> None:
    """What executes and waits is seen while it does, every outcome is counted, and a restart begins anew."""
    flags = ("--max-queued-per-session", "2", "--cancel-grace", "1")
    with serving(TARGETS / "agent.py", *flags, folder=tmp_path, variables=at.environment) as server:
        assert samples(server)["strandline_runs_accepted_total"] == 0
        at.hold("q1 model 0")
        requests = server.line_up("q1", "q2", "q3", session_id="s")
        assert server.client.post("/chat", json={"message": "q4", "session_id": "s"}).status_code == 429
        until(lambda: samples(server)["strandline_subscribers"] == 3, "three clients wait")
        now = samples(server)
        assert now["strandline_runs_running"] == 1
        assert now["strandline_runs_waiting"] == 2
        assert now["strandline_runs_waiting_max"] == 10_000
        assert now["strandline_session_runs_waiting"] == 2
        assert now["strandline_session_runs_waiting_max"] == 2
        assert now["strandline_oldest_wait_seconds"] > 0
        assert now["strandline_refusals_total queue_full"] == 1
        assert now["strandline_ready"] == 1
        runs = server.client.get("/v1/sessions/s/runs").json()["runs"]
        assert server.client.post(f"/v1/runs/{runs[0]['run_id']}/cancel").status_code == 200
        at.release()
        for each in requests:
            each.result(DEADLINE_S)
        server.chat("q5 a fail", "s")
        until(lambda: samples(server)["strandline_loop_lag_seconds_count"] > 0, "a second is over")
        now = samples(server)
        assert now["strandline_runs_accepted_total"] == 4
        assert now["strandline_runs_ended_total none succeeded"] == 2
        assert now["strandline_runs_ended_total none cancelled"] == 1
        assert now["strandline_runs_ended_total agent_error failed"] == 1
        assert now["strandline_run_duration_seconds_count succeeded"] == 2
        assert now["strandline_run_duration_seconds_count cancelled"] == 0
        assert now["strandline_run_wait_seconds_count"] == 3
        assert now["strandline_first_text_seconds_count"] == 3
        assert now["strandline_runs_running"] == now["strandline_runs_waiting"] == now["strandline_subscribers"] == 0
        assert now["strandline_journal_commit_seconds_count"] == now["strandline_journal_commit_batch_count"] > 4
        assert now["strandline_journal_commit_batch_sum"] >= now["strandline_journal_commit_batch_count"]
        assert now["strandline_journal_bytes"] >= (tmp_path / "journal.db").stat().st_size
        assert now["strandline_disk_free_bytes"] > 0
        assert now["strandline_connections_cut_total malformed"] == 0
        with socket.create_connection((server.client.base_url.host, server.client.base_url.port or 0)) as stranger:
            stranger.sendall(b"no HTTP at all\r\n\r\n")
            assert stranger.recv(100).startswith(b"HTTP/1.1 400 ")
        assert samples(server)["strandline_connections_cut_total malformed"] == 1
        assert "nvalid" not in server.stderr, "nobody fills the log with that"
        server.terminate()
        assert server.ended() == 0
        server.start()
        assert samples(server)["strandline_runs_accepted_total"] == 0


def test_metrics_name_nobody_and_no_web_page_can_read_them(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server:
        run_id = server.chat("whispered-question", "whispered-session")["run_id"]
        text = server.client.get("/metrics", headers={"Accept": OPENMETRICS})
        assert text.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert text.headers["cache-control"] == "no-store"
        assert list(parse_openmetrics(text.text))
        for name in ("whispered", run_id, "anonymous"):
            assert name not in text.text
        labels = {label for family in parse_openmetrics(text.text) for each in family.samples for label in each.labels}
        places = {"worker"} if "workers" in server.health() else set()
        assert labels == {"outcome", "code", "reason", "result", "le", "version"} | places
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            assert server.client.get("/metrics", headers=headers).status_code == 403
        assert server.client.head("/metrics").status_code == 200
        assert server.client.post("/metrics").status_code == 405


def test_a_run_whose_server_was_killed_is_counted_by_the_next_one(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server:
        at.hold("q1 a")
        server.ask("q1 a", "s")
        at.reached("q1 a")
        server.kill()
        at.release()
        server.start()
        now = samples(server)
        assert now["strandline_runs_ended_total crashed failed"] == 1
        assert now["strandline_run_duration_seconds_count failed"] == now["strandline_run_wait_seconds_count"] == 0

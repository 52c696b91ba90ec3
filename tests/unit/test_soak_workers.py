"""What a soak does to workers is the seed's to decide, and excuses what a log says of it, and nothing else."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from soak.kills import has_workers, hits
from soak.server import Change, Server
from soak.trial import Trial

DIED = "2026-01-01 00:00:00,000 ERROR strandline.workers: worker 0 (process {}) has died: ended by {}"
BLOCKED = "2026-01-01 00:00:00,000 ERROR strandline.runner: an agent loop is blocked for good and is given up:"
NONE = "2026-01-01 00:00:00,000 ERROR strandline.readiness: not ready: no worker takes calls; runs are refused"


def test_a_seed_has_some_servers_with_workers_and_some_workers_struck_in_each_way() -> None:
    with_workers = [has_workers(7, number) for number in range(200)]
    assert with_workers == [has_workers(7, number) for number in range(200)]
    assert 20 < sum(with_workers) < 100
    some = list(islice(hits(7), 200))
    assert some == list(islice(hits(7), 200))
    assert {(each.whom, each.still_s is None) for each in some} == {
        (whom, killed) for whom in ("one", "all") for killed in (False, True)
    }


@pytest.mark.parametrize(
    ("line", "has_reason"),
    [
        (DIED.format(11, "SIGKILL"), True),
        (DIED.format(12, "SIGKILL"), False),
        (DIED.format(11, "SIGSEGV"), False),
        (BLOCKED, True),
        (NONE, True),
        ("2026-01-01 00:00:00,000 ERROR strandline.workers: worker 0 (process 11) cannot serve: why", False),
        ("Traceback (most recent call last):", False),
    ],
)
def test_only_what_was_done_to_workers_excuses_a_line_of_a_log(line: str, has_reason: bool) -> None:
    for struck, is_excused in (({11}, has_reason), (set[int](), False)):
        server = Server(1, Path(os.devnull), workers=True)
        server.struck = struck
        server._read(line.encode() + b"\n", Change())
        assert (server._complaints == []) == is_excused


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no server of a soak has workers")
def test_the_workers_of_a_server_are_found_killed_and_held_up_for_a_while(tmp_path: Path) -> None:
    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    async def until(wanted: Any) -> None:
        end = time.monotonic() + 20
        while not wanted():
            assert time.monotonic() < end
            await asyncio.sleep(0.005)

    async def main() -> None:
        workers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
        try:
            server = Server(1, Path(os.devnull), workers=True)
            server._process = SimpleNamespace(pid=os.getpid())  # type: ignore[assignment]
            assert {each.pid for each in workers} <= set(server.workers())
            server.has_workers = False
            assert server.workers() == []
            trial = Trial(tmp_path, kills=0, seed=1)
            await trial._struck(workers[0].pid, None)
            assert await asyncio.to_thread(workers[0].wait, 20) == -signal.SIGKILL
            await trial._struck(workers[0].pid, None)  # it is gone: nobody else is hit
            striking = asyncio.create_task(trial._struck(workers[1].pid, 600.0))
            await until(lambda: state(workers[1].pid) == "T")
            striking.cancel()
            await until(lambda: state(workers[1].pid) != "T")
            assert [each.how for each in trial._records.struck] == ["KILL", "STOP"]
        finally:
            for each in workers:
                each.kill()
                each.wait()

    asyncio.run(main())

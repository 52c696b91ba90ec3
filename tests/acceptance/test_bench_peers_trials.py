"""The trials of the benchmark of peers find what a lock loses and what Strandline keeps, on real servers."""

import asyncio
from pathlib import Path

from bench.peers.record import Failed, Five
from bench.peers.subjects import SERVERS, Place
from bench.peers.trials import Trial, failed, five, killed
from bench.peers.verdicts import of_killed

LIMIT_S = 60.0


def trial(key: str, folder: Path) -> Trial:
    return Trial(next(each for each in SERVERS if each.key == key), Place(folder))


def test_a_lock_answers_five_in_order_then_a_failure_or_a_kill_ends_the_conversation(tmp_path: Path) -> None:
    lock = trial("lock", tmp_path)
    with lock.running() as server:
        assert asyncio.run(five(lock, server.url)) == Five(5, 0, 1, [0, 1, 2, 3, 4], True, True)
        assert asyncio.run(failed(lock, server.url)) == Failed(False, False, True)
    after = asyncio.run(killed(lock, 0.1))
    assert (after.ran, after.earlier_kept, of_killed(after).good) == (0, False, False)
    assert after.accepted > 0


def test_strandline_answers_five_in_order_continues_after_a_failure_and_keeps_all_over_a_kill(tmp_path: Path) -> None:
    strandline = trial("sqlite", tmp_path)
    with strandline.running() as server:
        assert asyncio.run(five(strandline, server.url)) == Five(5, 0, 1, [0, 1, 2, 3, 4], True, True)
        assert asyncio.run(failed(strandline, server.url)) == Failed(True, True, True)
    after = asyncio.run(killed(strandline, LIMIT_S))
    assert of_killed(after).good, after

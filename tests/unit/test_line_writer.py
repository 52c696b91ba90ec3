"""Lines for a slow or stuck reader: `put` never waits, and missing lines are reported."""

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from strandline._line_writer import LineWriter

DEADLINE_S = 20.0


def missing(count: int) -> bytes:
    return b"(%d missing)\n" % count


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(writer)
    os.close(reader)


def read(reader: int, until: bytes) -> bytes:
    """Read until something has come."""
    found = b""
    while until not in found:
        found += os.read(reader, 65536)
    return found


def test_all_lines_arrive_in_their_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = LineWriter(writer, missing)
    heard: list[bytes] = []
    reading = threading.Thread(target=lambda: heard.append(read(reader, b"9999\n")))
    reading.start()
    for number in range(10_000):
        lines.put(b"line %d\n" % number)
    assert lines.flush(DEADLINE_S)
    reading.join(DEADLINE_S)
    assert heard[0].splitlines() == [b"line %d" % number for number in range(10_000)]
    assert lines.dropped == 0
    lines.close()


def filled(writer: int) -> bytes:
    """Fill a pipe, and return with what."""
    os.set_blocking(writer, False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += os.write(writer, b"." * 4096)
    os.set_blocking(writer, True)
    return b"." * count


def test_put_never_waits_for_a_reader_and_missing_lines_are_reported(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    before = filled(writer)
    lines = LineWriter(writer, missing, most_bytes=10_000)
    for number in range(250):  # returns, although nobody reads
        lines.put(b"%099d\n" % number)
    assert lines.dropped == 150
    assert not lines.flush(0.01)
    began = time.monotonic()
    assert not lines.flush(DEADLINE_S), "it was waited for before"
    assert time.monotonic() - began < DEADLINE_S / 2
    heard = read(reader, b"%099d\n" % 99)
    assert lines.flush(DEADLINE_S), "a reader that resumes gets the queued lines"
    lines.put(b"the last one\n")
    heard += read(reader, b"the last one\n")
    assert heard.startswith(before)
    reported = heard[len(before) :].splitlines()
    assert reported == [*(b"%099d" % number for number in range(100)), b"(150 missing)", b"the last one"]
    lines.close()


def test_there_is_room_for_one_line_however_long_it_is(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = LineWriter(writer, missing, most_bytes=10)
    lines.put(b"x" * 50_000 + b"\n")
    assert len(read(reader, b"\n")) == 50_001
    assert lines.dropped == 0
    lines.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no such device")
def test_what_has_no_room_on_the_disk_is_dropped_and_counted() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    lines = LineWriter(full, missing)
    for _ in range(3):
        lines.put(b"line\n")
        assert lines.flush(DEADLINE_S)
    assert lines.dropped >= 3
    lines.close()
    os.close(full)


def test_a_line_that_a_full_disk_has_cut_is_not_joined_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 12

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = written_to(descriptor, data[:room])
        room -= written
        return written

    written_to = os.write
    monkeypatch.setattr(os, "write", write)
    log = (tmp_path / "log").open("wb")
    lines = LineWriter(log.fileno(), missing)
    for line in (b"line 1\n", b"line 2\n", b"line 3\n"):
        lines.put(line)
        assert lines.flush(DEADLINE_S)
    room = 1000
    lines.put(b"line 4\n")
    assert lines.flush(DEADLINE_S)
    reported = (tmp_path / "log").read_bytes().splitlines()
    assert reported[:2] == [b"line 1", b"line "]
    assert reported[-1] == b"line 4"
    assert all(each == b"line " or each.startswith((b"line ", b"(")) for each in reported)
    lines.close()
    log.close()


def test_a_descriptor_that_does_not_block_loses_nothing_as_long_as_somebody_reads(pipe: tuple[int, int]) -> None:
    """Another process that has the same terminal or pipe may have made it so."""
    reader, writer = pipe
    filling = filled(writer)
    os.set_blocking(writer, False)
    lines = LineWriter(writer, missing)
    lines.put(b"x" * 100_000 + b"\n")
    lines.put(b"the last one\n")
    assert not lines.flush(0.01)
    assert read(reader, b"the last one\n") == filling + b"x" * 100_000 + b"\nthe last one\n"
    assert lines.dropped == 0
    lines.close()


def test_a_signal_that_logs_while_a_line_is_put_is_no_deadlock(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines: LineWriter

    class Line(bytes):
        def __len__(self) -> int:
            if not entered:
                entered.append(True)
                lines.put(b"from the handler\n")
            return super().__len__()

    entered: list[bool] = []
    lines = LineWriter(writer, missing)
    lines.put(Line(b"line\n"))
    assert sorted(read(reader, b"line\n").splitlines()) == [b"from the handler", b"line"]
    lines.close()


FORKED = """
import logging, os
from strandline._logs import log_to_stderr
log_to_stderr()
log = logging.getLogger("strandline.test")
log.info("before")
logging.getLogger().handlers[0].flush()
if os.fork() == 0:
    log.info("in the child")
    os._exit(0)
os.wait()
log.info("after")
"""
LEAVES = """
import logging, os
from strandline._logs import flush, log_to_stderr
log_to_stderr()
for number in range(2000):
    logging.getLogger("strandline.test").info("line %d", number)
{end}
"""


def test_a_child_that_user_code_has_forked_logs_too() -> None:
    # (Python 3.12 and newer warn of forks beside threads, on the same stderr)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.partition("strandline.test: ")[2] for line in done.stderr.splitlines()] == [
        "before", "in the child", "after"
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "raise RuntimeError('end')", "flush(); os._exit(1)"])
def test_the_last_lines_of_a_process_are_written_however_it_ends(end: str) -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES.format(end=end)], capture_output=True, text=True, check=False)
    reported = [
        line.partition("strandline.test: ")[2] for line in done.stderr.splitlines() if "strandline.test" in line
    ]
    assert reported == [f"line {number}" for number in range(2000)]

"""The page of benchmarks says what its record holds, and how to run it again."""

import subprocess
import sys
from dataclasses import replace

import pytest

from bench.peers.record import load
from bench.peers.report import BEGIN, DASH, END, ROWS, conditions, notes, put, table, written
from bench.peers.subjects import LOOP, SERVERS
from docs.pages import DOCS, ROOT
from tools.pictures.peers import draw

PAGE = (DOCS / "benchmarks.md").read_text()
TEXT = (DOCS / "benchmarks.json").read_text()
RECORD = load(TEXT)


def test_the_page_is_what_its_record_says() -> None:
    assert PAGE.count(BEGIN) == PAGE.count(END) == 1
    assert put(PAGE, RECORD) == PAGE, "write it anew with: make bench-peers PEERS=--again"


def test_a_record_is_kept_without_loss() -> None:
    assert RECORD.dump() == TEXT


def test_the_record_has_every_server_once_with_versions_and_trials() -> None:
    assert [each.key for each in RECORD.figures] == [LOOP, *(each.key for each in SERVERS)]
    for each in RECORD.figures[1:]:
        assert each.versions, each.key
        assert each.failures == [], each.key
        assert None not in (each.five, each.failed, each.killed, each.one_p50_ms, each.session_kb), each.key


def test_the_table_has_a_column_for_each_server_and_a_dash_for_what_one_cannot_do() -> None:
    lines = table(RECORD).splitlines()
    assert len(lines) == len(ROWS) + 2
    assert {line.count(" | ") for line in lines[2:]} == {len(RECORD.figures)}
    trial = next(line for line in lines if line.startswith("| Five requests"))
    assert trial.split(" | ")[1] == DASH


def test_the_page_says_when_the_machine_was_busy_and_when_a_run_was_quick() -> None:
    quiet = replace(RECORD, quick=False, machine=replace(RECORD.machine, load_before=0.2, load_during=2.4))
    busy = replace(quiet, machine=replace(quiet.machine, load_during=9.0))
    assert "kept this machine busy" not in conditions(quiet)
    assert "load 0.2 before, up to 9.0 during" in conditions(busy)
    assert "kept this machine busy" in conditions(busy)
    assert "--quick" not in conditions(quiet)
    assert "--quick" in conditions(replace(quiet, quick=True))


def test_what_failed_in_a_run_is_a_note_and_a_dash() -> None:
    broken = load(TEXT)
    broken.figures[1].one_p50_ms = None
    broken.figures[1].failures.append("measuring: it went away")
    assert "Failed in this run: measuring: it went away." in notes(broken)
    assert table(broken).splitlines()[2].split(" | ")[2] == DASH
    broken.figures[1].versions = {}
    assert "2. FastAPI and a lock: left out." in notes(broken)
    assert "(2)" in table(broken).splitlines()[0]


def test_a_page_without_its_marks_is_not_written_over() -> None:
    with pytest.raises(ValueError, match="substring not found"):
        put("# Benchmarks\n", RECORD)
    assert put(f"a\n{BEGIN}\nold\n{END}\nb\n", RECORD) == f"a\n{written(RECORD)}\nb\n"


def test_the_picture_shows_each_trial_as_good_or_bad() -> None:
    shown = draw(RECORD)
    assert shown.count('class="good"') + shown.count('class="bad"') == 3 * len(SERVERS)
    assert shown.count('class="work"') == 3


def test_the_command_says_how_it_is_used_and_needs_no_peer_for_that() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.peers", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for option in ("--quick", "--only", "--json", "--write", "--again"):
        assert option in done.stdout


def test_the_pinned_file_names_exact_versions_and_no_host() -> None:
    lines = [
        line for line in (ROOT / "bench/peers/constraints.txt").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    names = [line.partition("==")[0] for line in lines]
    assert all("==" in line and "://" not in line for line in lines)
    assert len(names) == len(set(names))
    pinned = {name.replace("_", "-") for name in names}
    assert {package for each in SERVERS for package in each.packages} - {"strandline"} <= pinned

"""The life of a run is the design's table, no more and no less, and the diagram shows all of it."""

from itertools import product

import pytest

from strandline._lifecycle import ENDED, MOVES, Move, advance, diagram
from strandline._model import RunStatus
from strandline.errors import InvariantBroken

# queued -> running -> succeeded | failed | cancelled | needs_input; queued -> failed | cancelled; running -> queued
DESIGN = {
    ("queued", "running"),
    ("queued", "failed"),
    ("queued", "cancelled"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("running", "needs_input"),
    ("running", "queued"),
}

ILLEGAL = [pair for pair in product(RunStatus, Move) if pair not in MOVES]


def test_the_table_has_the_moves_of_the_design_and_no_others() -> None:
    assert {(str(start), str(end)) for (start, _), end in MOVES.items()} == DESIGN
    assert len(MOVES) == len(DESIGN)


@pytest.mark.parametrize(("start", "move"), list(MOVES))
def test_a_legal_move_leads_where_the_table_says(start: RunStatus, move: Move) -> None:
    assert advance(start, move) is MOVES[start, move]


@pytest.mark.parametrize(("start", "move"), ILLEGAL)
def test_an_illegal_move_is_a_defect_that_names_itself(start: RunStatus, move: Move) -> None:
    with pytest.raises(InvariantBroken, match=f"a run that is {start} cannot {move}"):
        advance(start, move)


def test_nothing_leaves_an_end_and_everything_else_is_left() -> None:
    assert set(ENDED) == {RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.NEEDS_INPUT}
    assert {start for start, _ in MOVES} == set(RunStatus) - ENDED


def test_every_status_can_be_reached_from_queued() -> None:
    reached = {RunStatus.QUEUED}
    while found := {end for (start, _), end in MOVES.items() if start in reached} - reached:
        reached |= found
    assert reached == set(RunStatus)


def test_every_kind_of_move_is_used() -> None:
    assert {move for _, move in MOVES} == set(Move)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        MOVES[RunStatus.FAILED, Move.CLAIM] = RunStatus.RUNNING  # type: ignore[index]


def test_the_diagram_shows_the_beginning_each_move_and_each_end_once() -> None:
    first, *lines = diagram().splitlines()
    assert first == "stateDiagram-v2"
    assert sorted(lines) == sorted(
        ["    [*] --> queued"]
        + [f"    {start.value} --> {end.value}: {move.value}" for (start, move), end in MOVES.items()]
        + [f"    {end.value} --> [*]" for end in ENDED]
    )
    assert diagram().endswith("\n")

"""The soak's judge finds what is wrong about runs that join another, and nothing else."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from soak.message import MEANWHILE
from soak.records import Move
from soak_support import DONE, QUEUED, World


def joined() -> World:
    """Return the story in which the last message has joined the first run, and ended with it."""
    world = World()
    del world.history[-2:]
    world.history[2]["content"] += [{"text": MEANWHILE}, {"text": QUEUED}]
    world.records.seen.clear()
    world.end(QUEUED, world.ends[DONE])
    world.view(QUEUED, join="applied", joined=f"run-{DONE}", attempt=0, created=104.0, begun=210.5, ended_s=211.0)
    world.records.reported[f"run-{QUEUED}"] = {world.ends[DONE]}
    world.ask(QUEUED, if_busy="steer")
    return world


def test_a_run_that_joined_another_has_no_fault() -> None:
    assert joined().judged() == []


def test_a_run_that_became_the_next_one_has_no_fault() -> None:
    world = World()
    world.ask(QUEUED, if_busy="steer")
    world.view(QUEUED, join="became_next_run")
    assert world.judged() == []


def say_nothing(world: World) -> None:
    del world.history[2]["content"][1:]


def say_it_twice(world: World) -> None:
    world.history[0]["content"] += [{"text": MEANWHILE}, {"text": QUEUED}]


def say_it_alone_as_well(world: World) -> None:
    world.history += World().history[-2:]


def end_otherwise(world: World) -> None:
    world.end(QUEUED, replace(world.ends[DONE], text="nothing"))
    world.records.reported[f"run-{QUEUED}"].clear()


def join_without_wanting_to(world: World) -> None:
    world.ask(QUEUED, if_busy="enqueue")


def be_too_late_to_move_while_it_waits(world: World) -> None:
    world.records.moves.append(
        Move(run_id=f"run-{QUEUED}", sent_s=104.0, answered_s=105.0, priority=1, status_code=409, code="too_late")
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (say_nothing, "its message is with []"),
        (say_it_twice, "stands 2 times in history, not 1"),
        (say_it_alone_as_well, "stands 2 times in history, not 1"),
        (end_otherwise, "which it has joined, as End"),
        (join_without_wanting_to, "and was to enqueue"),
        (be_too_late_to_move_while_it_waits, "had not begun when it was too late to move it"),
    ],
)
def test_what_is_wrong_is_found(wrong: Callable[[World], None], said: str) -> None:
    world = joined()
    wrong(world)
    faults = world.judged()
    assert any(said in fault for fault in faults), faults

"""Each defect of default options of sessions is found by the simulation: see `test_breakages.py`."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from breakage_support import SEEDS, is_noticed
from strandline._journal import accepting
from strandline._journal.changes import StoreOptions
from strandline._journal.changing import Changing
from strandline._journal.defaults import with_defaults
from strandline._journal.port import SetOptions

Break = Callable[[pytest.MonkeyPatch], None]

_set_options = Changing._set_options


def store_no_options(patch: pytest.MonkeyPatch) -> None:
    """Options count until their session is read again."""

    def set_options(table: Changing, change: SetOptions) -> Any:
        answer = _set_options(table, change)
        table._changes[:] = [each for each in table._changes if not isinstance(each, StoreOptions)]
        return answer

    patch.setattr(Changing, "_set_options", set_options)


def apply_no_options(patch: pytest.MonkeyPatch) -> None:
    """A run has what its own request says, and nothing else."""
    patch.setattr(accepting, "with_defaults", lambda new, body, options: (new, body))


def tell_the_agent_alone(patch: pytest.MonkeyPatch) -> None:
    """A run that starts at once has the options, and what is stored of it has not."""
    patch.setattr(accepting, "with_defaults", lambda new, body, options: (with_defaults(new, body, options)[0], body))


def remove_none(patch: pytest.MonkeyPatch) -> None:
    """Options can be changed, and not be removed."""

    def set_options(table: Changing, change: SetOptions) -> Any:
        given = {name: value for name, value in (change.options or {}).items() if value is not None}
        return _set_options(table, replace(change, options=given))

    patch.setattr(Changing, "_set_options", set_options)


BREAKAGES: dict[str, tuple[Break, int, str]] = {
    "options that are not stored": (store_no_options, 1002, "and its session had one of"),
    "options that are not applied": (apply_no_options, 1002, "and its session had one of"),
    "options that are not stored with a run": (tell_the_agent_alone, 1002, "has the mark .*, and not"),
    "options that stay": (remove_none, 1009, "and its session had one of"),
}
"""Each with the seed at which the search begins: the first that shows it, which saves playing the others."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, first, reported = BREAKAGES[name]
    make(monkeypatch)
    seeds = range(first, first + SEEDS)
    assert is_noticed(reported, seeds, "memory"), f"{name} stays unnoticed in {SEEDS} worlds"

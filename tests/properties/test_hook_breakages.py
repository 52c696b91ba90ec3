"""Each defect of webhooks is found by the simulation: see `test_breakages.py`."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from breakage_support import SEEDS, is_noticed
from strandline._engine.webhooks.outbox import Outbox
from strandline._engine.webhooks.port import SendResult
from strandline._journal.port import StoredDelivery
from strandline._journal.transitions import Transitions

Break = Callable[[pytest.MonkeyPatch], None]

_sent = Outbox._sent


def report_no_end(patch: pytest.MonkeyPatch) -> None:
    """The end of a run that waits is no event."""
    send = Transitions._send

    def sent(table: Any, run: Any, event: Any) -> None:
        if run.started_at is not None:
            send(table, run, event)

    patch.setattr(Transitions, "_send", sent)


def send_once(patch: pytest.MonkeyPatch) -> None:
    """What a receiver refuses is not sent again."""

    async def sent(outbox: Outbox, stored: StoredDelivery) -> SendResult:
        return replace(await _sent(outbox, stored), received=True)

    patch.setattr(Outbox, "_sent", sent)


def name_it_anew(patch: pytest.MonkeyPatch) -> None:
    """An event that is sent again has another id."""
    times: list[str] = []

    async def sent(outbox: Outbox, stored: StoredDelivery) -> SendResult:
        times.append(stored.id)
        return await _sent(outbox, replace(stored, id=f"{stored.id}.{times.count(stored.id)}"))

    patch.setattr(Outbox, "_sent", sent)


BREAKAGES: dict[str, tuple[Break, int, str]] = {
    "an end that is no event": (report_no_end, 1000, "and was not received"),
    "an event that is sent once": (send_once, 1002, "and was not received"),
    "an event with two ids": (name_it_anew, 1000, "the end of run .* came as"),
}
"""Each with the seed at which the search begins: the first that shows it, which saves playing the others."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, first, reported = BREAKAGES[name]
    make(monkeypatch)
    seeds = range(first, first + SEEDS)
    assert is_noticed(reported, seeds, "memory"), f"{name} stays unnoticed in {SEEDS} worlds"

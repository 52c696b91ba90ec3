"""One scrape: reads the service, the disk and the recorder, and encodes the metrics in a thread."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from strandline._engine.service import Service
from strandline._telemetry.catalogue import Seen
from strandline._telemetry.disk import Disk
from strandline._telemetry.recorder import MetricsRecorder
from strandline._telemetry.sampler import Sampler


class Scrapes:
    """Belongs to the serving loop. `file` is the journal's, None if it has none.

    `dropped_lines` returns how many log lines were dropped.
    """

    def __init__(
        self,
        service: Service,
        recorder: MetricsRecorder,
        file: Path | None,
        dropped_lines: Callable[[], int] = lambda: 0,
    ) -> None:
        self._dropped_lines = dropped_lines
        self._service = service
        self._recorder = recorder
        self._disk = None if file is None else Disk(file)
        self._stored = Sampler(service.stored)
        self._database = Sampler(service.database)
        self._webhooks = None if service.outbox is None else Sampler(service.outbox.vitals)

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics and their media type; `accept` is the client's header."""
        usage, stored, database, webhooks = await asyncio.gather(
            _nothing() if self._disk is None else self._disk.sample(),
            self._stored.sample(),
            self._database.sample(),
            _nothing() if self._webhooks is None else self._webhooks.sample(),
        )
        seen = Seen(self._service.vitals(), self._recorder, usage, stored, self._dropped_lines(), database, webhooks)
        try:
            return await asyncio.to_thread(_exposed, seen, accept)
        except RuntimeError:  # no thread is available, which is when metrics matter
            return _exposed(seen, accept)


async def _nothing() -> None:
    return None


def _exposed(seen: Seen, accept: str) -> tuple[bytes, str]:
    from strandline._telemetry.exposition import exposed  # the first import takes a while

    return exposed(seen, accept)

"""Metrics are exposed in the formats of Prometheus; a disk that hangs holds a scrape up for a moment only."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from engine_support import Played, echo, outcome, send, serving
from strandline._engine.loops import Load, WorkerLoad
from strandline._engine.reading import ClusterVitals
from strandline._engine.webhooks import WebhookVitals
from strandline._journal.cluster import DatabaseVitals
from strandline._model import ErrorCode, Outcome, RunError, RunStatus
from strandline._telemetry import disk, sampler
from strandline._telemetry.catalogue import METRICS, Seen
from strandline._telemetry.exposition import exposed
from strandline._telemetry.recorder import Distribution, MetricsRecorder
from strandline._telemetry.scrape import Scrapes
from strandline.testing._virtual import VirtualClock, run_virtual

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def test_a_distribution_counts_each_value_in_every_bucket_from_its_own_on() -> None:
    times = Distribution((1.0, 5.0))
    for value in (0.5, 1.0, 1.1, 5.0, 70.0):
        times.note(value)
    counts, total = times.seen()
    assert counts == [(1.0, 2), (5.0, 4), (float("inf"), 5)]
    assert total == pytest.approx(77.6)


def seen_of(recorder: MetricsRecorder) -> Seen:
    """Return what a scrape has before it when one run has been served."""

    async def main(clock: VirtualClock) -> Seen:
        async with serving(clock, Played(echo), observer=recorder, max_stored_bytes_per_principal=1_000_000) as service:
            await outcome(await send(service, "hello"))
            return Seen(service.vitals(), recorder, disk.DiskUsage(journal=1000, left=2000), await service.stored())

    return run_virtual(main)


def test_a_scrape_for_an_unknown_version_is_answered_in_plain_text() -> None:
    seen = seen_of(MetricsRecorder())
    for version in ("abc", "1..0", "1.x", "9" * 5000, "-1"):
        for kind in ("application/openmetrics-text", "text/plain"):
            text, media_type = exposed(seen, f"{kind};version={version}")
            assert b"strandline_ready" in text
            assert media_type.startswith("text/plain; version=0.0.4")


def test_every_metric_exists_in_both_formats_from_the_start() -> None:
    seen = seen_of(MetricsRecorder())
    workers = [WorkerLoad(pid=4711, running=0, silent_s=0.0)]
    cluster = ClusterVitals(
        servers=3, owned=84, unowned=0, gained=0, ceded=172, lease_s=10.0, lease_left_s=8.5, takeovers=1
    )
    seen = replace(
        seen,
        vitals=replace(seen.vitals, agents=Load(workers=workers), cluster=cluster),
        database=DatabaseVitals(-0.5, 7, 2, 9),
        webhooks=WebhookVitals(),
    )
    text, media_type = exposed(seen, "text/plain")
    assert media_type.startswith("text/plain; version=0.0.4")
    read = {family.name: family for family in parse_text(text.decode())}
    text, media_type = exposed(seen, OPENMETRICS)
    assert media_type.startswith("application/openmetrics-text; version=1.0.0")
    strictly = {family.name: family for family in parse_openmetrics(text.decode())}
    for each in METRICS:
        name = f"strandline_{each.name}"
        for families in (read, strictly):
            assert families[name].type == each.kind
            assert families[name].documentation == each.meaning
            assert families[name].samples, name
            assert {label for sample in families[name].samples for label in sample.labels} - {"le"} == set(each.labels)


def test_every_outcome_and_code_is_there_before_and_after_it_has_happened() -> None:
    recorder = MetricsRecorder()
    before = set(recorder.ends)
    for status in (RunStatus.SUCCEEDED, RunStatus.CANCELLED, RunStatus.NEEDS_INPUT):
        recorder.ended(Outcome(status=status), 1.0)
    for code in ErrorCode:
        recorder.ended(Outcome(status=RunStatus.FAILED, error=RunError(code, "it failed")), None)
    for reason in list(recorder.refusals):
        recorder.refused(reason)
    assert set(recorder.ends) == before
    assert set(recorder.ends.values()) == set(recorder.refusals.values()) == {1}
    assert [each.seen()[0][-1][1] for each in recorder.durations.values()] == [1, 0, 1, 1]


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that answers when the event is set."""
    let_go, measured = threading.Event(), disk.Disk._measured

    def hang(self: disk.Disk) -> disk.DiskUsage | None:
        assert let_go.wait(30)
        return measured(self)

    monkeypatch.setattr(disk.Disk, "_measured", hang)
    yield let_go
    let_go.set()


def test_a_disk_that_hangs_takes_one_thread_however_often_it_is_looked_at(
    tmp_path: Path, hanging: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "SAMPLE_S", 0.0)

    async def main() -> None:
        place = disk.Disk(tmp_path / "journal.db")
        before = threading.active_count()
        for _ in range(4):
            assert await place.sample() is None
        assert threading.active_count() <= before + 1
        hanging.set()

    asyncio.run(main())


def test_without_a_thread_only_the_disk_metrics_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def threadless(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main(clock: VirtualClock) -> None:
        recorder = MetricsRecorder()
        async with serving(clock, Played(echo), observer=recorder) as service:
            await outcome(await send(service, "hello"))
            text, _ = await Scrapes(service, recorder, tmp_path / "journal.db").scrape("text/plain")
            assert b"\nstrandline_runs_accepted_total 1.0\n" in text
            assert b"\nstrandline_journal_bytes " not in text

    monkeypatch.setattr(threading.Thread, "start", threadless)
    run_virtual(main)


def test_a_hanging_disk_shows_its_last_values(
    tmp_path: Path, hanging: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "SAMPLE_S", 0.01)
    file = tmp_path / "journal.db"
    file.write_bytes(bytes(100))
    file.with_name("journal.db-wal").write_bytes(bytes(11))

    async def main() -> None:
        place = disk.Disk(file)
        assert await place.sample() is None
        hanging.set()
        while (seen := await place.sample()) is None:
            pass
        assert seen.journal == 111
        assert seen.left > 0
        hanging.clear()
        assert await place.sample() == seen
        assert set(await asyncio.gather(place.sample(), place.sample())) == {seen}
        hanging.set()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_journal_that_is_not_there_yet_or_in_memory_has_no_size(tmp_path: Path) -> None:
    async def main() -> None:
        assert await disk.Disk(tmp_path / "none" / "journal.db").sample() is None

    asyncio.run(main())


def test_a_server_without_a_file_has_no_disk_metrics() -> None:
    async def main() -> str:
        async with serving(VirtualClock(asyncio.get_running_loop()), Played(echo)) as service:
            return (await Scrapes(service, MetricsRecorder(), None).scrape(""))[0].decode()

    scraped = {sample.name for family in parse_text(asyncio.run(main())) for sample in family.samples}
    assert "strandline_runs_waiting" in scraped
    assert {"strandline_journal_bytes", "strandline_disk_free_bytes"}.isdisjoint(scraped)

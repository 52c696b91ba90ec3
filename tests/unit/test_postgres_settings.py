"""A journal in PostgreSQL, as far as settings go: its address, its driver, where it cannot be."""

import asyncio
import sys

import pytest

import strandline
from strandline import _journal
from strandline._clock import SystemClock
from strandline._composition import open_journal
from strandline._config import journal_database, journal_file, resolve
from strandline._journal import postgres
from strandline._printable import without_passwords
from strandline._telemetry.recorder import MetricsRecorder
from strandline.errors import SettingsError

ADDRESS = "postgresql://ada:s3cret@db/strandline"


@pytest.mark.parametrize("address", [ADDRESS, "postgres://db/x", "postgresql://", "postgresql:///?service=strand"])
def test_an_address_is_a_database_and_no_file(address: str) -> None:
    settings = resolve({}, {"STRANDLINE_JOURNAL": address}).settings
    assert (journal_database(settings), journal_file(settings)) == (address, None)


@pytest.mark.parametrize("address", ["postgresql:db", "postgres:ada:s3cret@db", "mysql://ada:s3cret@db/x"])
def test_another_address_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(SettingsError, match="postgresql://USER@HOST/DATABASE") as raised:
        resolve({}, {"STRANDLINE_JOURNAL": address})
    assert "s3cret" not in str(raised.value)


def test_without_the_driver_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_journal, "postgres", postgres)  # (put back in the end: importing it anew replaces it)
    for name in [name for name in sys.modules if name.startswith(("psycopg", "strandline._journal.postgres"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    settings = resolve({}, {"STRANDLINE_JOURNAL": ADDRESS}).settings
    with pytest.raises(SettingsError, match=r"pip install 'strandline\[postgres\]'"):
        open_journal(settings, SystemClock(), MetricsRecorder())


def test_a_service_in_another_program_refuses_a_database() -> None:
    async def answer(message: str, session: object) -> str:
        return message

    async def main() -> None:
        async with strandline.open_service(answer, journal=ADDRESS):
            raise AssertionError("it has started")

    with pytest.raises(SettingsError, match="strandline serve"):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:s3cret@db/x", "postgresql://ada:***@db/x"),
        ("postgresql://ada:s3c/r@et@db/x", "postgresql://ada:***@db/x"),
        ("postgresql://db/x?password=s3cret&sslmode=require", "postgresql://db/x?password=***&sslmode=require"),
        ("host=db password='s3 cret' user=ada", "host=db password=*** user=ada"),
        ("sqlite:.strandline/journal.db", "sqlite:.strandline/journal.db"),
        ("http://127.0.0.1:8080/a", "http://127.0.0.1:8080/a"),
    ],
)  # fmt: skip
def test_passwords_are_hidden_and_nothing_else_is(text: str, shown: str) -> None:
    assert without_passwords(text) == shown

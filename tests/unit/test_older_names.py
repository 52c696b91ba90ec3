"""Names that were replaced: the older and the clearer one mean the same, wherever either is used."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import strandline
from strandline import _older_names as names
from strandline._cli import app
from strandline._cli.settings import by_both_names
from strandline._config import DEFAULT, FIELDS, PREFIX, default_of, resolve, survey
from strandline._http.app.openapi import document
from strandline._session_files.paths import SessionPaths
from strandline.client._answers import run as client_run
from strandline.errors import SettingsError
from strandline.testing._desk import key
from unit.test_access import ADA, OPS, run, served

RENAMED = list(names.SETTINGS.items())
SOME = 4_000_000


def in_force(name: str, folder: Path, **flags: Any) -> Any:
    return getattr(resolve(flags, {}, folder=folder).settings, FIELDS[name])


# -- settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "older"), RENAMED)
def test_a_setting_is_read_by_either_name_as_flag_variable_and_key(name: str, older: str, tmp_path: Path) -> None:
    assert in_force(name, tmp_path, **{older: str(SOME)}) == in_force(name, tmp_path, **{name: str(SOME)}) == SOME
    variable = PREFIX + older.upper()
    found = resolve({}, {variable: str(SOME)}, folder=tmp_path)
    assert (getattr(found.settings, FIELDS[name]), found.origins[name]) == (SOME, variable)
    assert found.remarks == []
    (tmp_path / "strandline.toml").write_text(f"{older} = {SOME}\n")
    assert in_force(name, tmp_path) == SOME
    (shown,) = [each for each in survey({}, folder=tmp_path).settings if each.name == name]
    assert (shown.value, shown.origin) == (SOME, "strandline.toml")


@pytest.mark.parametrize(("name", "older"), RENAMED)
def test_both_names_of_a_setting_may_be_used_with_one_value_only(name: str, older: str, tmp_path: Path) -> None:
    assert in_force(name, tmp_path, **{older: SOME, name: SOME}) == SOME
    both = {PREFIX + older.upper(): "3", PREFIX + name.upper(): "4"}
    said = f"{name} is '4' .*, and by its older name {older} it is '3' .*Set one of the two"
    with pytest.raises(SettingsError, match=said):
        resolve({}, both, folder=tmp_path)
    assert any(older in each for each in survey(both, folder=tmp_path).errors)
    with pytest.raises(SettingsError, match=older):
        resolve({older: "3", name: "4"}, {}, folder=tmp_path)
    (tmp_path / "strandline.toml").write_text(f"{older} = 3\n{name} = 4\n")
    with pytest.raises(SettingsError, match=older):
        resolve({}, {}, folder=tmp_path)


def test_a_flag_by_its_older_name_precedes_a_variable_by_the_clearer_one(tmp_path: Path) -> None:
    found = resolve({"max_holds": "3"}, {"STRANDLINE_MAX_STILL_WORKING": "4"}, folder=tmp_path)
    assert (found.settings.max_holds, found.origins["max_still_working"]) == (3, "--max-holds")


@pytest.mark.parametrize(
    ("setting", "value", "older"),
    [(setting, value, older) for setting, values in names.VALUES.items() for value, older in values.items()],
)
def test_a_value_is_read_by_either_name(setting: str, value: str, older: str, tmp_path: Path) -> None:
    assert in_force(setting, tmp_path, **{setting: older}) == in_force(setting, tmp_path, **{setting: value}) == value
    assert default_of(setting) != value


def test_programs_read_settings_by_both_names_and_people_by_the_clearer_one(tmp_path: Path) -> None:
    shown = survey({"STRANDLINE_MAX_HOLDS": "3"}, folder=tmp_path).settings
    assert not {each.name for each in shown} & names.NEWER_SETTINGS.keys()
    by_name = {each.name: each for each in by_both_names(shown)}
    assert by_name.keys() == {*FIELDS, *names.NEWER_SETTINGS}
    for name, older in names.SETTINGS.items():
        assert (by_name[older].value, by_name[older].origin) == (by_name[name].value, by_name[name].origin)
    assert (by_name["max_holds"].value, by_name["hold_limit"].origin) == (3, DEFAULT)


def test_flags_by_older_names_work_and_are_not_in_the_help() -> None:
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).stdout
    for name, older in names.SETTINGS.items():
        assert f"--{name.replace('_', '-')} " in shown
        assert f"--{older.replace('_', '-')} " not in shown
    done = CliRunner().invoke(app, ["serve", "--max-holds", "0"])
    assert "max_still_working is '0' (--max-holds)" in done.stderr


def test_keywords_of_the_library_may_have_older_names(tmp_path: Path) -> None:
    async def answer(message: str, session: Any) -> str:
        return message

    assert strandline.asgi(answer, journal="memory:", max_holds=3, max_queued_per_principal=2) is not None
    with pytest.raises(SettingsError, match="older name max_holds it is 3"):
        strandline.asgi(answer, journal="memory:", max_holds=3, max_still_working=4)


def test_session_files_may_name_the_caller_by_either_name(tmp_path: Path) -> None:
    older, newer = (SessionPaths(str(tmp_path / each)) for each in ("{principal}", "{caller}"))
    assert older.keeps_principals_apart
    assert older.folder(key("s", "ada")) == newer.folder(key("s", "ada")) == tmp_path / "ada" / "session_s"
    assert older.pattern("x") == newer.pattern("x")


# -- answers -------------------------------------------------------------------------------------------


def same(body: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the values of a body's fields that have two names; they must be the same by both."""
    for name, older in names.FIELDS[kind].items():
        assert body.get(name) == body.get(older), (name, older)
    return {name: body[name] for name in names.FIELDS[kind] if name in body}


def test_answers_have_both_names_with_the_same_values(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            served(tmp_path) as world,
            world.client(ADA[0]) as ada,
            world.client(OPS[0]) as ops,
        ):
            accepted = (await ada.post("/v1/sessions/s/runs", json={"input": "hold"})).json()
            assert same(accepted, "RunBody") == {"locks_session": False}
            assert same((await ada.get("/v1/sessions/s")).json(), "SessionBody") == {"locked_by": None}
            (listed,) = (await ops.get("/v1/sessions")).json()["sessions"]
            assert same(listed, "SessionBody") == {"locked_by": None, "caller": "ada"}
            health = (await ops.get("/health")).json()
            ada_now = {"claimed": 1, "waiting": 0, "still_working": 0, "leftovers": 0}
            assert same(health, "HealthBody") == {"locked_sessions": 0, "callers": {"ada": ada_now}}
            assert same(health["callers"]["ada"], "CallerBody") == {"still_working": 0}

    run(main())


def test_openapi_says_which_field_is_the_older_name_of_which() -> None:
    schemas = document()["components"]["schemas"]
    for kind, fields in names.FIELDS.items():
        properties = schemas[kind]["properties"]
        for name, older in fields.items():
            assert properties[older]["description"] == f"Older name of `{name}`, with the same value"
            assert "Older name" not in json.dumps(properties[name])


def test_a_client_reads_whether_a_run_locks_its_session_from_any_server() -> None:
    body = {"run_id": "r", "session_id": "s", "status": "failed"}
    assert not client_run(json.dumps(body).encode()).locks_session
    assert client_run(json.dumps(body | {"held": True}).encode()).locks_session
    assert client_run(json.dumps(body | {"held": True, "locks_session": True}).encode()).held


# -- commands ------------------------------------------------------------------------------------------


def test_an_import_belongs_to_a_caller_by_either_name_of_the_option(tmp_path: Path) -> None:
    (tmp_path / "session_s").mkdir()
    journal = str(tmp_path / "journal.db")
    for options in (["--caller", "ada"], ["--principal", "ada"], ["--caller", "ada", "--principal", "ada"]):
        done = CliRunner().invoke(app, ["journal", "import", str(tmp_path), journal, "--dry-run", *options])
        assert "older name" not in done.stderr
    done = CliRunner().invoke(
        app, ["journal", "import", str(tmp_path), journal, "--dry-run", "--caller", "ada", "--principal", "bob"]
    )
    assert "--caller is 'ada', and by its older name --principal it is 'bob'" in " ".join(done.stderr.split())


def test_commands_print_fields_by_both_names() -> None:
    for command, fields in names.PRINTED.items():
        record = {name: name for name in fields}
        assert names.by_both_names(record, command) == record | {older: name for name, older in fields.items()}

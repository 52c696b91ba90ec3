"""Where settings are declared: once each, and what reads a record gets them without a list."""

import itertools
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from strandline._composition import options_of
from strandline._config import FIELDS, choices, kind_of, resolve
from strandline._older_names import NEWER_SETTINGS
from strandline._settings import AppSettings, ServiceSettings, Settings

RECORDS = (ServiceSettings, AppSettings, Settings)


def another(name: str, default: Any) -> Any:
    """Return a value of a setting that is not its default, as people write it."""
    few = [each for each in choices(kind_of(name)) if each != default]
    match default:
        case bool():
            return not default
        case int() | float():
            return default * 2 if name != "priority" else 1
        case StrEnum():
            return few[0]
        case list():
            return ["audio"] if name == "allowed_content" else ["a=b"]
        case None:
            return few[0] if few else 3_000_000 if "bytes" in name or name.endswith("retention") else 3
    return few[0] if few else "memory:" if name == "journal" else f"x{default}"


@pytest.mark.parametrize("field", ServiceSettings.__struct_fields__)
def test_a_service_gets_every_setting_of_its_record_without_a_list(field: str) -> None:
    name = next(each for each, of in FIELDS.items() if of == field)
    settings = Settings(**{field: another(name, getattr(Settings(), field))})
    assert getattr(settings, field) != getattr(Settings(), field)
    assert getattr(options_of(settings, survives=True), field) == getattr(settings, field)


def test_what_depends_on_other_settings_is_in_force_in_a_service() -> None:
    def read(**given: Any) -> tuple[str, int | None, int]:
        options = options_of(Settings(**given), survives=True)
        return options.error_text, options.max_holds_per_principal, options.max_attempts

    assert read() == ("full", None, 3)
    assert read(api_keys=["ada sha256:0"], max_holds=1) == ("id", 1, 3)
    assert read(api_keys=["ada sha256:0"]) == ("id", 4, 3)
    assert read(api_keys_file="keys", max_holds_per_principal=7) == ("id", 7, 3)
    assert read(error_text="class")[0] == "class"
    assert read(after_crash="fail") == ("full", None, 1)


def test_each_record_has_the_settings_of_the_one_before() -> None:
    for smaller, larger in itertools.pairwise(RECORDS):
        assert issubclass(larger, smaller)
        assert larger.__struct_fields__[: len(smaller.__struct_fields__)] == smaller.__struct_fields__


def test_durations_have_their_unit_in_code_and_not_for_people(tmp_path: Path) -> None:
    assert {name for name in FIELDS if name.endswith("_s")} == set()
    renamed = {field for name, field in FIELDS.items() if field.removesuffix("_s") != name}
    assert {field.removesuffix("_s") for field in renamed} == NEWER_SETTINGS.keys()
    others = {field for name, field in FIELDS.items() if field != name} - renamed
    assert others == {field for field in FIELDS.values() if field.endswith("_s")} - renamed
    settings = resolve({"timeout": "7"}, {"STRANDLINE_DRAIN_GRACE": "2"}, folder=tmp_path).settings
    assert (settings.timeout_s, settings.drain_grace_s) == (7.0, 2.0)

"""`docs/client.md`: its programs are typed, and its tables are whole."""

import inspect
from pathlib import Path
from typing import get_args

from docs.pages import files, text, type_checked, write_files
from strandline import AsyncClient, Client, client
from strandline.client import Event
from strandline.client import _errors as errors
from strandline.client import _requests as requests

PAGE = "client.md"


def test_the_programs_are_typed(tmp_path: Path) -> None:
    done = type_checked(*files(PAGE), folder=write_files(PAGE, tmp_path))
    assert done.returncode == 0, done.stdout


def test_no_event_error_method_or_run_option_is_left_out() -> None:
    page = text(PAGE)
    for event in get_args(Event):
        assert f"`{event.__name__}`" in page
        if event is not client.Unknown:
            assert f"`{event.__struct_config__.tag}`" in page
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and hasattr(client, name) and kind is not errors.ClientError:
            assert f"`{name}`" in page
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_") and name != "close":
            assert f"| `{name}({next(iter(list(inspect.signature(method).parameters)[1:]))}" in page
    for option in requests.RunOptions.__annotations__:
        assert option in page


def test_both_clients_can_do_the_same() -> None:
    def shape(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(each).parameters) for name, each in members if not name.startswith("_")}

    assert shape(Client) == shape(AsyncClient)

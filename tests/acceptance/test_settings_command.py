"""`strandline settings`: values, where they come from, and what is wrong with them, for people and for programs."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from acceptance.server import ran, serving
from strandline._settings import Settings


def settings(folder: Path, *arguments: str, code: int = 0, **variables: str) -> "subprocess.CompletedProcess[str]":
    done = ran("settings", *arguments, folder=folder, variables=variables)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_every_setting_is_one_line_in_a_pipe(tmp_path: Path) -> None:
    """Whatever the width of a terminal is: lines are for grep."""
    lines = settings(tmp_path, COLUMNS="40").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(Settings.__struct_encode_fields__)
    assert next(line for line in lines if line.startswith("port ")).split()[:3] == ["port", "8080", "default"]


def test_where_values_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acceptance.server.WORKERS", None)  # (nothing is set but by this test)
    (tmp_path / "strandline.toml").write_text('port = 9000\nmax_running = 3\nidempotent_tools = ["a", "b"]\n')
    (tmp_path / "other.toml").write_text("max_running = 4\n")
    lines = settings(tmp_path, "--changed", PORT="9001", AGENT_ID="ada").stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["agent_id", "max_running", "idempotent_tools", "port"]
    assert [line.split()[:3] for line in (*lines[:2], lines[3])] == [
        ["agent_id", "ada", "AGENT_ID"], ["max_running", "3", "strandline.toml"], ["port", "9001", "PORT"]
    ]  # fmt: skip
    assert "a, b" in lines[2]
    report = json.loads(settings(tmp_path, "--json", "--changed", "--config", "other.toml").stdout)
    assert [(each["name"], each["value"], each["origin"]) for each in report["settings"]] == [
        ("max_running", 4, "other.toml")
    ]


def test_invalid_values_are_marked_in_place_and_explained(tmp_path: Path) -> None:
    """All of it at once, each with its origin, and with what it may be."""
    (tmp_path / "strandline.toml").write_text('max_runing = 3\nstall_action = "hope"\n')
    done = settings(tmp_path, code=2, STRANDLINE_TIMEOUT="soon", STRANDLINE_MAX_QEUED="7")
    assert "STRANDLINE_TIMEOUT, WRONG" in next(line for line in done.stdout.splitlines() if line.startswith("timeout"))
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert lines[0] == "note: the variable STRANDLINE_MAX_QEUED is not a setting; did you mean `STRANDLINE_MAX_QUEUED`?"
    assert "strandline.toml has `max_runing`, which is not a setting; did you mean `max_running`?" in lines[1]
    assert "timeout is 'soon' (STRANDLINE_TIMEOUT); it must be a number" in lines[2]
    assert "stall_action is 'hope' (strandline.toml); it must be report or cancel" in lines[3]
    as_json = json.loads(settings(tmp_path, "--json", code=2).stdout)
    assert [each["name"] for each in as_json["settings"] if each["error"]] == ["stall_action"]
    assert len(as_json["faults"]) == 1


@pytest.mark.parametrize(("text", "expected"), [("port =\n", "line 1"), ("\xff", "cannot be read")])
def test_a_file_that_cannot_be_read(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "strandline.toml").write_text(text, encoding="latin-1")
    assert expected in settings(tmp_path, code=2).stderr


def test_the_image_reads_no_file_of_settings_from_the_folder_in_which_agents_write(tmp_path: Path) -> None:
    """As the image runs it, in the agents' folder, where a tool has written what would make it an operator."""
    text = (Path(__file__).parents[2] / "Dockerfile").read_text()
    image = dict(re.findall(r"\b(STRANDLINE_\w+)=(\S+)", text[text.index("\nENV PATH=") :]))
    assert "STRANDLINE_JOURNAL" in image
    (tmp_path / "strandline.toml").write_text(
        'api_keys = ["tool sha256:0 operator"]\nmetrics_public = true\nmax_running = 1\n'
    )
    done = settings(tmp_path, "--json", **image)
    report = json.loads(done.stdout)
    assert {each["name"] for each in report["settings"] if each["origin"] == "strandline.toml"} == set()
    assert report["faults"] == []
    assert "strandline.toml is not read" in report["remarks"][0]
    own = tmp_path / "app.toml"
    own.write_text("max_running = 5\n")
    for found in (
        settings(tmp_path, "--json", "--config", str(own), **image),
        settings(tmp_path, "--json", **{**image, "STRANDLINE_CONFIG": str(own)}),
    ):
        (line,) = [each for each in json.loads(found.stdout)["settings"] if each["name"] == "max_running"]
        assert (line["value"], line["origin"]) == (5, str(own))
    variables = {**image, "STRANDLINE_JOURNAL": "memory:", "STRANDLINE_HOST": "127.0.0.1"}
    variables |= {"STRANDLINE_LOG_FORMAT": "text", "STRANDLINE_DEMO_MODEL": "scripted"}
    with serving("strandline._demo.agent", folder=tmp_path, variables=variables, journal=None) as server:
        assert server.health()["auth"] == "none"
        assert "strandline.toml is not read" in server.stderr


def test_a_server_says_once_that_a_variable_is_nearly_a_setting_and_serves(tmp_path: Path) -> None:
    """In a container beside a service of its name, whose address Kubernetes has put into the environment."""
    variables = {
        "STRANDLINE_TIMEOOT": "5",
        "STRANDLINE_SERVICE_HOST": "10.0.0.11",
        "STRANDLINE_PORT_8000_TCP": "tcp://10.0.0.11:8000",
        "STRANDLINE_DEMO_MODEL": "scripted",
    }
    with serving("strandline._demo.agent", folder=tmp_path, variables=variables) as server:
        assert server.health()["auth"] == "none"
        message = "the variable STRANDLINE_TIMEOOT is not a setting; did you mean `STRANDLINE_TIMEOUT`?"
        assert server.stderr.count(message) == 1
        assert server.stderr.count("is not a setting") == 1

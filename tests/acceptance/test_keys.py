"""A real server with keys: made by the command, shown by clients, changed while it runs, and written nowhere."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.events import listening
from acceptance.server import COMMAND, DEADLINE_S, TARGETS, Server, environment, serving, until
from strandline import Client
from strandline.client import Unauthorized


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def command(folder: Path, *arguments: str, code: int = 0, **variables: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [COMMAND, *arguments], cwd=folder, env=environment(variables), capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


def made(folder: Path, name: str, *flags: str) -> str:
    """Make a key of this name in the file `keys`, and return it."""
    return command(folder, "keys", "new", name, "--file", "keys", *flags).stdout.strip()


def shown(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_server_with_keys_over_its_whole_life(at: Checkpoints, tmp_path: Path) -> None:
    """From the first key to a restart; it listens on all addresses, which it may since it has keys."""
    old, bob, ops = made(tmp_path, "ada"), made(tmp_path, "bob"), made(tmp_path, "ops", "--operator")
    with serving(
        TARGETS / "agent.py", "--api-keys-file", "keys", "--host", "0.0.0.0", folder=tmp_path, variables=at.environment
    ) as server:
        assert "no key is required" not in server.stderr
        _clients(server, old, tmp_path)
        _events_are_the_listeners_own(server, old, bob)
        _each_request_on_a_connection_is_looked_at(server, old)
        _questions_of_others_are_hidden(server, bob, ops)
        new = _rotated(server, at, tmp_path, old)
        server.kill()
        server.start()
        answer = httpx.get(f"{server.url}/v1/sessions", headers=shown(ops), trust_env=False).json()
        assert {(each["principal"], each["session_id"]) for each in answer["sessions"]} >= {
            ("ada", "desk"), ("ada", "held"), ("bob", "desk")
        }  # fmt: skip
        with Client(server.url, new) as ada:
            assert [each["content"] for each in ada.history("held")] == [[{"text": "held"}], [{"text": "held"}]]
        log = server.stderr
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("*") if file.is_file())
    for key in (old, new, bob, ops):
        assert key not in log
        assert key.encode() not in kept


def _clients(server: Server, key: str, folder: Path) -> None:
    """What programs and commands say without a key, with a wrong one, and with the right one."""
    with Client(server.url, f" {key}\n") as ada:
        assert ada.chat("hello", "desk").output == "hello"
    for wrong in (None, "strandline_wrong"):
        with Client(server.url, wrong) as nobody, pytest.raises(Unauthorized) as error:
            nobody.chat("hello", "desk")
        assert (error.value.status, error.value.code) == (401, "unauthorized")
    (folder / "mine").write_text(f"{key}\n")
    url = ("--url", server.url)
    for arguments in (("sessions", *url), ("chat", server.url, "-m", "hello"), ("cancel", "-s", "desk", *url)):
        stderr = command(folder, *arguments, code=2).stderr
        assert "--key-file" in stderr
        assert "strandline keys new NAME" in stderr
        assert "this key is not valid" in command(folder, *arguments, code=2, STRANDLINE_API_KEY="wrong").stderr
    assert "desk" in command(folder, "sessions", *url, "--key-file", "mine").stdout
    assert "desk" in command(folder, "sessions", *url, STRANDLINE_API_KEY=key).stdout
    assert "hello" in command(folder, "runs", "desk", *url, STRANDLINE_API_KEY_FILE="mine").stdout
    assert command(folder, "chat", server.url, "-s", "desk", "-m", "you", "--key-file", "mine").stdout == "you\n"
    assert "cannot be read" in command(folder, "sessions", *url, "--key-file", "none", code=2).stderr
    (folder / "wrong").write_text("schlüssel\n")
    for asks in (("sessions", *url), ("check", server.url)):
        assert "printable ASCII" in command(folder, *asks, "--key-file", "wrong", code=2).stderr
    (folder / "mine").unlink()


def _events_are_the_listeners_own(server: Server, ada: str, bob: str) -> None:
    with listening(server, "GET", "/v1/events", headers=shown(bob)) as ear:
        for key in (ada, bob):
            httpx.post(
                f"{server.url}/chat", json={"message": "m", "session_id": "desk"}, headers=shown(key), trust_env=False,
                timeout=DEADLINE_S,
            ).raise_for_status()  # fmt: skip
        end = ear.until("run.finished")
        assert {each.data["run_id"] for each in ear.heard} == {end.data["run_id"]}, "nothing of ada's came before"


def _each_request_on_a_connection_is_looked_at(server: Server, key: str) -> None:
    """Pipelined: the second and third are sent before the first is answered."""
    host, port = server.url.removeprefix("http://").split(":")
    head = f"GET /v1/sessions HTTP/1.1\r\nHost: {host}\r\n"
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        last = f"{head}authorization: bearer {key}\r\nConnection: close\r\n\r\n"
        connection.sendall(f"{head}Authorization: Bearer {key}\r\n\r\n{head}\r\n{last}".encode())
        came = b""
        while chunk := connection.recv(65536):
            came += chunk
    assert re.findall(rb"HTTP/1.1 (\d+)", came) == [b"200", b"401", b"200"]


def _questions_of_others_are_hidden(server: Server, bob: str, ops: str) -> None:
    """An operator sees that bob's session waits for an answer, and not to what (which may be in the name, too)."""
    with Client(server.url, bob) as client:
        assert client.chat("asks @x", "asks").status == "needs_input"
        (own,) = client.ask("GET", "/v1/sessions/asks")["input_requests"]
        assert own["reason"]
    with Client(server.url, ops) as client:
        listed = client.ask("GET", "/v1/sessions")["sessions"]
        (seen,) = (each for each in listed if each["session_id"] == "asks")
        assert (seen["input_requests"], bool(seen["input_until"])) == ([], True)
        assert seen["why"] == {
            "code": "waits_for_input",
            "text": "the session waits for an answer to its question",
        }, "and nothing of its own"
    url = ("--url", server.url)
    lines = command(server.folder, "sessions", *url, STRANDLINE_API_KEY=ops).stdout.splitlines()
    assert [line.split()[-4:] for line in lines if " waits for" in line] == [["waits", "for", "an", "answer"]]
    assert (
        f"waits for an answer: {own['name']}" in command(server.folder, "sessions", *url, STRANDLINE_API_KEY=bob).stdout
    )


def _rotated(server: Server, at: Checkpoints, folder: Path, old: str) -> str:
    """Give ada another key and take the old one away while somebody waits with it; return the new one."""
    at.hold("held model 0")
    waiting = server.submit(
        httpx.post, f"{server.url}/chat", json={"message": "held", "session_id": "held"}, headers=shown(old),
        timeout=DEADLINE_S, trust_env=False,
    )  # fmt: skip
    at.reached("held model 0")
    new = made(folder, "ada")
    first, *others = (folder / "keys").read_text().splitlines()
    (folder / "next").write_text("\n".join(others))
    os.replace(folder / "next", folder / "keys")
    server.signal(signal.SIGHUP)
    refused = waiting.result(DEADLINE_S)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    until(lambda: re.search("[01] new, 1 gone, 3 in all", server.stderr), "the log reports it")
    assert first.split()[1].removeprefix("sha256:") not in server.stderr
    with Client(server.url, new) as ada:
        (run,) = ada.ask("GET", "/v1/sessions/held/runs")["runs"]
        assert run["status"] == "running"
        at.release()
        assert ada.wait(run["run_id"]).output == "held"
    return new


def test_the_command_makes_keys_that_only_their_owner_can_read_about(tmp_path: Path) -> None:
    alone = command(tmp_path, "keys", "new", "ada", "--operator").stdout.splitlines()
    assert alone[1].startswith("ada sha256:")
    assert alone[1].endswith(" operator")
    assert alone[0] not in alone[1]
    done = command(tmp_path, "keys", "new", "ada", "--file", "keys")
    assert len(done.stdout.split()) == 1, "so that KEY=$(strandline keys new ...) is the key"
    assert done.stdout.strip() not in done.stderr
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    with (tmp_path / "keys").open("a") as file:
        file.write("# no new line behind this")
    command(tmp_path, "keys", "new", "bob", "--file", "keys")
    lines = (tmp_path / "keys").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["ada", "#", "bob"]
    (tmp_path / "keys").write_text("strandline_THISISTHEKEY\n")
    failed = command(tmp_path, "keys", "new", "eve", "--file", "keys", code=2)
    assert "line 1" in failed.stderr
    assert "THISISTHEKEY" not in failed.stderr
    assert failed.stdout == ""
    assert (tmp_path / "keys").read_text() == "strandline_THISISTHEKEY\n"
    assert "cannot be the name" in command(tmp_path, "keys", "new", "a b", code=2).stderr
    assert "cannot be written" in command(tmp_path, "keys", "new", "a", "--file", "no/keys", code=2).stderr


def test_what_is_wrong_with_keys_keeps_a_server_from_starting_and_the_doctor_says_it_too(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("async def answer(message, session):\n    return message\n")

    def found(**variables: str) -> dict[str, Any]:
        done = subprocess.run(
            [COMMAND, "doctor", "agent.py:answer", "--json"], cwd=tmp_path, env=environment(variables),
            capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        return {each["level"]: each["told"] for each in json.loads(done.stdout) if each["about"] == "keys"}

    assert found() == {"ok": "none: clients need no key"}
    assert "STRANDLINE_API_KEY" in found(STRANDLINE_API_KEY="x")["note"]
    file = tmp_path / "keys"
    for content in ("", "strandline_THISISTHEKEY"):
        file.write_text(content)
        stderr = command(tmp_path, "serve", "agent.py:answer", "--port", "0", "--api-keys-file", "keys", code=2).stderr
        assert "keys" in stderr
        assert "THISISTHEKEY" not in stderr
    assert "line 1" in found(STRANDLINE_API_KEYS_FILE="keys")["problem"]
    file.unlink()
    made(tmp_path, "ada")
    made(tmp_path, "bob", "--operator")
    several = found(STRANDLINE_API_KEYS_FILE="keys", STRANDLINE_HOST="0.0.0.0")
    assert several["ok"] == "2 for ada, bob; 1 for operators"
    assert "may fill the whole server: 10000 runs may wait, 64 execute" in several["note"]
    bounds = {"STRANDLINE_MAX_QUEUED_PER_CALLER": "9", "STRANDLINE_MAX_RUNNING_PER_CALLER": "9"}
    assert "note" not in found(STRANDLINE_API_KEYS_FILE="keys", STRANDLINE_HOST="0.0.0.0", **bounds)
    assert "problem" not in several
    file.chmod(0o666)
    assert "others than its owner can write" in found(STRANDLINE_API_KEYS_FILE="keys")["problem"]


def test_what_one_principal_leaves_working_keeps_itself_out_and_nobody_else(at: Checkpoints, tmp_path: Path) -> None:
    """Small requests whose tool works on after their time, or after a forced cancel: more than stop a server without
    keys."""
    ada, bob, ops = made(tmp_path, "ada"), made(tmp_path, "bob"), made(tmp_path, "ops", "--operator")
    flags = ["--api-keys-file", "keys", "--cancel-grace", "0.1", "--unlock-after", "0.5"]
    with serving(TARGETS / "agent.py", *flags, folder=tmp_path, variables=at.environment) as server:
        at.hold(*(f"a{number} x" for number in range(12)))

        def ask(path: str, **body: Any) -> httpx.Response:
            url = f"{server.url}{path}"
            return httpx.post(url, json=body, headers=shown(ada), trust_env=False, timeout=DEADLINE_S)

        def principals() -> Any:
            return httpx.get(f"{server.url}/health", headers=shown(ops), trust_env=False).json()["callers"]

        begun = [ask(f"/v1/sessions/a{number}/runs", input=f"a{number} x").json()["run_id"] for number in range(8)]
        at.reached(*(f"a{number} x" for number in range(8)))
        waits = ask("/v1/sessions/a0/runs", input="a0 y").json()["run_id"]
        for number in range(8, 12):
            answer = ask("/chat", message=f"a{number} x", session_id=f"a{number}", timeout=0.3)
            assert answer.json()["error_code"] == "timeout"
        refused = ask("/chat", message="more", session_id="more")
        assert (refused.status_code, refused.json()["code"]) == (429, "holds_full")
        assert int(refused.headers["Retry-After"]) >= 1
        for run_id in begun:
            assert ask(f"/v1/runs/{run_id}/cancel", force=True).status_code in (200, 202)
        left = {"ada": {"claimed": 0, "waiting": 1, "still_working": 12, "leftovers": 12}}
        until(lambda: principals() == left, "all have ended, all holds are given up, and all threads live")
        with Client(server.url, bob) as other:
            for number in range(3):
                assert other.chat(f"b{number} y", f"b{number}").output == f"b{number}: did y"
        run = httpx.get(f"{server.url}/v1/runs/{waits}", headers=shown(ada), trust_env=False).json()
        assert (run["status"], run["why"]["code"]) == ("queued", "holds_full")
        metrics = httpx.get(f"{server.url}/metrics", headers=shown(ops), trust_env=False).text
        assert 'strandline_refusals_total{reason="holds_full"} 1.0' in metrics
        assert "strandline_runs_still_working 12.0" in metrics
        at.release()
        until(lambda: principals() == {}, "nothing works any more, and what waited has run")
        assert ask("/chat", message="more", session_id="more").json()["response"] == "more"

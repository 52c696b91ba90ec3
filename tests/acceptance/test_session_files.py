"""`session_files` as an operator sets it: Strands' own manager reads what a real server has written."""

import json
import re
from pathlib import Path

import httpx
import pytest
from strands import Agent
from strands.session import FileSessionManager

from acceptance.checkpoints import checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, ran, refused, serving, until
from strandline._model import Message
from strandline.testing import ScriptedModel
from strandline.testing._checker import check_history

AGENT = TARGETS / "agent.py"


def folder_of(folder: Path, name: str) -> Path:
    return folder / f"session_{name}/agents/agent_default/messages"


def kept(folder: Path, name: str) -> list[Message]:
    """Return the messages of a session's files, in order, as history shows them."""
    files = folder_of(folder, name).glob("message_*.json")
    numbered = sorted(files, key=lambda file: int(file.stem.partition("_")[2]))
    messages = [json.loads(file.read_text())["message"] for file in numbered]
    return [{"role": each["role"], "content": each["content"]} for each in messages]


def goes_on(folder: Path, name: str) -> Agent:
    """Return an agent that Strands makes from the files, having asked it something."""
    manager = FileSessionManager(name, storage_dir=str(folder))
    agent = Agent(model=ScriptedModel(lambda messages: "and on"), session_manager=manager, callback_handler=None)
    assert str(agent("more")).strip() == "and on"
    return agent


def written(server: Server) -> None:
    """Return when everything is in its file."""
    name = "strandline_session_files_behind 0.0"
    until(lambda: name in server.client.get("/metrics").text, f"files are written\n{server.stderr}")


def test_strands_continues_from_a_servers_files_and_a_crash_costs_nothing(tmp_path: Path) -> None:
    """Tools, failures and what was in the middle at a kill stand there as in history; a deletion takes them along."""
    files = tmp_path / "files"
    flags = ("--session-files", str(files), "--session-files-names", "default=agent")
    with checkpoints() as at, serving(AGENT, *flags, folder=tmp_path, variables=at.environment) as server:
        server.chat("q1 a ~b+c")
        server.chat("q2 d fail")
        server.chat("other", "t")
        written(server)
        assert kept(files, "agent") == server.history()
        assert check_history(kept(files, "agent")) == []

        at.hold("q3 e")
        requests = server.line_up("q3 e")
        at.reached("q3 e")
        server.kill()
        with pytest.raises(httpx.TransportError):
            requests[0].result(DEADLINE_S)
        for file in folder_of(files, "t").iterdir():  # as if the kill had come before they were written
            file.unlink()
        at.release()
        server.start()
        written(server)
        until(lambda: len(kept(files, "t")) == 2, "what was missing is there")
        until(lambda: kept(files, "agent") == server.history(), "the files report the crash")
        assert "crashed" in json.dumps(kept(files, "agent")[-1])

        assert server.client.delete("/v1/sessions/t").status_code == 204
        assert [each.name for each in files.iterdir()] == ["session_agent"]
        server.chat("q4")
        server.terminate()
        assert server.ended() == 0
        assert kept(files, "agent")[-1]["content"] == [{"text": "q4"}]
    before = len(kept(files, "agent"))
    agent = goes_on(files, "agent")
    assert len(kept(files, "agent")) == before + 2
    assert check_history(agent.messages) == []  # type: ignore[arg-type]


def test_with_keys_each_principal_has_files_of_its_own(tmp_path: Path) -> None:
    keys = {}
    for name in ("ada", "bob"):
        made = ran("keys", "new", name, "--file", "keys", folder=tmp_path)
        found = re.search(r"slk_\S+|\bsk\S+", made.stdout)
        keys[name] = found[0] if found else made.stdout.split()[0]
    files = tmp_path / "files"
    message = refused(str(AGENT), "--api-keys-file", "keys", "--session-files", str(files), folder=tmp_path)
    assert "{caller}" in message
    flags = ("--api-keys-file", "keys", "--session-files", f"{files}/{{principal}}")
    with checkpoints() as at, serving(AGENT, *flags, folder=tmp_path, variables=at.environment) as server:
        for name, key in keys.items():
            headers = {"Authorization": f"Bearer {key}"}
            body = {"message": name, "session_id": "s"}
            assert server.client.post("/chat", json=body, headers=headers).status_code == 200
        server.terminate()
        assert server.ended() == 0
    assert {each.name for each in files.iterdir()} == {"ada", "bob"}
    for name in keys:
        assert [each["content"] for each in kept(files / name, "s")] == [[{"text": name}]] * 2


def test_an_unwritable_folder_is_reported_and_delays_nobody(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("no folder")
    flags = ("--session-files", str(tmp_path / "files"))
    with checkpoints() as at, serving(AGENT, *flags, folder=tmp_path, variables=at.environment) as server:
        assert server.chat("q1")["response"] == "q1"
        until(lambda: "strandline_session_files_failures_total 1.0" in server.client.get("/metrics").text, "a failure")
        assert server.chat("q2")["response"] == "q2"
        assert server.client.get("/readyz").status_code == 200
        server.terminate()
        assert server.ended() == 0
        assert "the files of session default could not be written" in server.stderr
        assert "Traceback" not in server.stderr

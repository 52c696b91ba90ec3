"""`docs/operations.md`: its commands for containers, in a real one. Kubernetes is read only."""

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml  # type: ignore[import-untyped]

from acceptance.server import TARGETS
from acceptance.test_container import ask, history, text
from docker_engine import DEADLINE_S, Container, container, volume
from docs.pages import ROOT
from docs.test_operations_page import PAGE, commands

TYPED: Final = commands("test_a_night_with_a_container")


def test_it_names_what_the_manifests_name() -> None:
    base, idle = (
        yaml.safe_load((ROOT / "deploy" / folder / "kustomization.yaml").read_text())
        for folder in ("kubernetes", "kubernetes-maintenance")
    )
    stateful_set = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "statefulset.yaml").read_text())
    name = stateful_set["metadata"]["name"]
    typed = re.findall(r"kubectl (?!apply -f -)[^`\n|]+", PAGE)
    assert len(typed) > 12
    for each in typed:
        if applied := re.search(r" -k (\S+)", each):
            assert (ROOT / applied[1] / "kustomization.yaml").exists(), each
            continue
        assert f"--namespace {base['namespace']} " in each, each
        for pod in re.findall(r"\bstrandline-\d\b", each):
            assert pod == f"{name}-0", each
        for kind, named in re.findall(r"\b(secret generic|statefulset) (\S+)", each):
            known = {"statefulset": [name], "secret generic": _secrets(stateful_set)}
            assert named in known[kind], each
    assert idle["resources"] == ["../kubernetes"]


def _secrets(stateful_set: dict[str, object]) -> list[str]:
    return re.findall(r"(?:secretName': |secretRef': {'name': )'([\w-]+)'", str(stateful_set))


@pytest.mark.docker
def test_a_night_with_a_container(image: str, tmp_path: Path) -> None:
    """Look, back up, try the new version, restore and roll back; as the page has it, and as root of the engine."""
    commands, shell, trial, back_up, restore, roll_back = _in_order()
    app = tmp_path / "app"
    app.mkdir(mode=0o755)
    (app / "agent.py").write_text((TARGETS / "remembers.py").read_text())
    with volume(image) as data, container(image, *data.mount, "--volume", f"{app}:/app:ro") as server:

        def typed(block: str) -> str:
            return type_in(block, server, image, tmp_path)

        ask(server.until_ready(), "before")
        output = typed(commands)
        assert "No run is executing." in output
        assert "factory /app/agent.py" in output
        assert "/data/journal.db" in output
        typed(back_up)
        assert (tmp_path / "monday.db").stat().st_size
        assert "none: it is sound" in typed(trial)
        assert sorted(server.execute("ls", "/data").split()) == [
            *("journal.db", "journal.db-shm", "journal.db-wal", "journal.db.lock", "workspace")
        ], "nothing is left"

        ask(server.url, "lost")
        (tmp_path / "monday.db").chmod(0o600)  # (a container's user could not read it)
        assert "none: it is sound" in typed(restore)
        assert user_messages(server.until_ready()) == ["before"]

        ask(server.url, "kept")
        server.execute("strandline", "journal", "backup", "/data/journal.db.v1-20260101T000000Z.bak")
        ask(server.url, "lost, too")
        typed(roll_back)
        typed(shell)
        assert user_messages(server.until_ready()) == ["before", "kept"]
        owners = server.execute("find", "/data", "-not", "-user", "10001")
        assert owners == "", "nothing in there is root's"


def _in_order() -> list[str]:
    marks = ("stacks", " sh\n", "tried.db", "docker cp", "back.db", "rolled-back")
    found = [[each for each in TYPED if mark in each] for mark in marks]
    assert [len(each) for each in found] == [1] * len(marks)
    assert sum(map(len, found)) == len(TYPED), "one that no test types"
    return [each for (each,) in found]


def user_messages(url: str) -> list[str]:
    return [text(message) for message in history(url) if message["role"] == "user"]


def type_in(block: str, server: Container, image: str, folder: Path) -> str:
    """Type a block of the page, with this container and this image for those that it names, and without a terminal."""
    block = block.replace(" --tty", "")
    block = re.sub(r"--volumes-from strandline strandline(:new)?", f"--volumes-from {server.id} {image}", block)
    block = re.sub(r"\bdocker (exec|stop|start|logs --tail 100) strandline\b", rf"docker \1 {server.id}", block)
    block = block.replace("strandline:/data", f"{server.id}:/data")
    assert block.count(server.id) == block.count("docker ")
    done = subprocess.run(
        ["sh", "-ec", block],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

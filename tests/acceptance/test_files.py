"""Files of installed servers: uploaded over HTTP, seen by models of a real provider, read by tools, and deleted."""

import base64
import hashlib
import io
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import pytest

from acceptance.checkpoints import checkpoints
from acceptance.server import TARGETS, Server, serving, until
from acceptance.server import ran as typed
from acceptance.test_any_server import sessions_of, two
from fakes.provider import Provider, ReceivedRequest
from strandline._journal.verify import verify
from strandline.client import Client, ClientError, NotFound

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def answer(received: ReceivedRequest) -> str:
    return "seen"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(script=answer) as made:
        yield made


@pytest.fixture(scope="module")
def server(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("files")
    variables = {"PROVIDER_URL": provider.url}
    with serving(TARGETS / "provider.py", "--max-file-bytes", "200000", folder=folder, variables=variables) as made:
        yield made


def uploaded(server: Server, data: bytes = PNG, name: str = "a.png", session: str = "s") -> dict[str, Any]:
    answer = server.client.post(f"/v1/sessions/{session}/files", params={"name": name}, content=data)
    assert answer.status_code == 201, answer.text
    file: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/sessions/{session}/files/{file['file_id']}"
    return file


def ran(server: Server, given: list[dict[str, Any]], session: str = "s") -> httpx.Response:
    return server.client.post(
        f"/v1/sessions/{session}/runs", json={"input": given}, headers={"Prefer": "wait=30"}, timeout=40
    )


def test_a_file_is_uploaded_listed_read_in_parts_and_deleted(server: Server) -> None:
    file = uploaded(server)
    assert (file["name"], file["media_type"], file["size"], file["named"]) == ("a.png", "image/png", len(PNG), False)
    assert file["sha256"] == hashlib.sha256(PNG).hexdigest()
    assert server.client.get("/v1/sessions/s/files").json()["files"] == [file]
    assert server.client.get("/v1/sessions/t/files").json()["files"] == []
    path = f"/v1/sessions/s/files/{file['file_id']}"
    whole = server.client.get(path)
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, PNG, "image/png")
    assert whole.headers["content-disposition"] == 'attachment; filename="a.png"'
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-security-policy"].startswith("sandbox")
    part = server.client.get(path, headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"PNG", f"bytes 1-3/{len(PNG)}")
    for beyond in (f"bytes={len(PNG)}-", f"bytes={len(PNG)}-{len(PNG) + 5}", "bytes=-0", f"bytes={len(PNG)}-, -0"):
        refused = server.client.get(path, headers={"Range": beyond})
        assert (refused.status_code, refused.json()["code"]) == (416, "not_in_range"), beyond
        assert refused.headers["content-range"] == f"bytes */{len(PNG)}"
        assert refused.headers["content-type"] == "application/problem+json"
        other = server.client.get(path, headers={"Range": beyond, "If-Range": '"another"'})
        assert (other.status_code, other.content) == (200, PNG), "it is another file now"
    one = server.client.get(path, headers={"Range": f"bytes={len(PNG)}-,1-3", "If-Range": whole.headers["etag"]})
    assert (one.status_code, one.content) == (206, b"PNG"), "the part that is there"
    assert server.client.get(path, headers={"Range": "bytes=-4"}).content == PNG[-4:]
    assert server.client.get(path, headers={"Range": f"bytes=4-{len(PNG) + 9}"}).content == PNG[4:]
    parts = server.client.get(path, headers={"Range": "bytes=0-1,4-5"})
    assert (parts.status_code, parts.headers["content-type"].partition(";")[0]) == (206, "multipart/byteranges")
    assert (PNG[:2] in parts.content, parts.content.count(b"Content-Range")) == (True, 2)
    for broken in ("bytes=5-1", "bytes=a-b", "lines=0-1", "bytes", "bytes=", "bytes=-", "bytes=--1", "bytes=0-1,x"):
        ignored = server.client.get(path, headers={"Range": broken})
        assert (ignored.status_code, ignored.content) == (200, PNG), broken
    assert server.client.get(path.replace("/s/", "/t/")).status_code == 404
    assert server.client.delete(path).status_code == 204
    assert [server.client.request(each, path).status_code for each in ("GET", "DELETE")] == [404, 404]
    assert server.client.get("/v1/sessions/s/files").json()["files"] == []


def test_the_model_sees_a_file_and_history_keeps_the_reference(server: Server, provider: Provider) -> None:
    file = uploaded(server, session="seen")
    assert ran(server, [{"file": file["file_id"]}, {"text": "What is it?"}], "seen").json()["output"] == "seen"
    content = provider.requests[-1].messages[-1]["content"]
    (image,) = [each for each in content if each["type"] == "image_url"]
    assert base64.b64decode(image["image_url"]["url"].partition("base64,")[2]) == PNG
    copy = next(Path(server.folder).rglob(f"uploads/{file['file_id']}/a.png"))
    assert copy.read_bytes() == PNG
    assert str(copy) in next(each["text"] for each in content if each["type"] == "text")
    stored = {"file": {"id": file["file_id"], "name": "a.png", "type": "image/png", "size": len(PNG)}}
    assert server.history("seen")[0]["content"] == [stored, {"text": "What is it?"}]
    (named,) = server.client.get("/v1/sessions/seen/files").json()["files"]
    assert named["named"]

    server.kill()
    server.start()
    assert ran(server, [{"text": "And now?"}], "seen").json()["output"] == "seen"
    assert any(each["type"] == "image_url" for each in provider.requests[-1].messages[0]["content"])
    assert server.client.delete(f"/v1/sessions/seen/files/{file['file_id']}").status_code == 204
    assert ran(server, [{"text": "And then?"}], "seen").json()["output"] == "seen"
    first = provider.requests[-1].messages[0]["content"]
    assert not any(each["type"] == "image_url" for each in first)
    assert "has been deleted" in first[0]["text"]


def test_a_backup_is_served_elsewhere_with_its_files(provider: Provider, tmp_path: Path) -> None:
    """It is made beside the server, and is not changed by what that deletes later; the conversation goes on there."""
    home, elsewhere, copied = (tmp_path / each for each in ("home", "elsewhere", "copied"))
    for each in (home, elsewhere, copied):
        each.mkdir()
    variables = {"PROVIDER_URL": provider.url}
    with serving(TARGETS / "provider.py", folder=home, variables=variables) as server:
        file = uploaded(server)
        assert ran(server, [{"file": file["file_id"]}]).json()["output"] == "seen"
        late = f"/v1/sessions/s/files/{file['file_id']}"
        done = typed("journal", "backup", "journal.db", elsewhere / "journal.db", folder=home)
        assert (done.returncode, "journal.db.files: 1 file, verified and on disk." in done.stdout) == (0, True)
        assert server.client.delete(late).status_code == 204
        uploaded(server, b"later", "later.txt")
    with serving(TARGETS / "provider.py", folder=elsewhere, variables=variables) as server:
        files = server.client.get("/v1/sessions/s/files").json()["files"]
        assert [(each["file_id"], each["named"]) for each in files] == [(file["file_id"], True)]
        assert server.client.get(late).content == PNG
        assert ran(server, [{"text": "And now?"}]).json()["output"] == "seen"
        assert any(each["type"] == "image_url" for each in provider.requests[-1].messages[0]["content"])

    done = typed("journal", "copy", "journal.db", copied / "journal.db", folder=elsewhere)
    assert (done.returncode, "1 file compared with their hashes" in done.stdout) == (0, True)
    kept = next((copied / "journal.db.files").rglob(file["file_id"]))
    assert kept.read_bytes() == PNG
    kept.unlink()
    done = typed("journal", "verify", "journal.db", "--json", folder=copied)
    lacks = f"the content of file {file['file_id']} in session s is missing"
    found = json.loads(done.stdout)
    assert (done.returncode, found["faults"], found["files"]) == (1, [lacks], 1)
    done = typed("journal", "verify", "journal.db", "--files", elsewhere / "journal.db.files", folder=copied)
    assert done.returncode == 0
    done = typed("journal", "backup", "journal.db", "again.db", folder=copied)
    assert (done.returncode, lacks in done.stderr, (copied / "again.db").exists()) == (1, True, True)


def test_a_session_takes_its_files_along(server: Server) -> None:
    file = uploaded(server, session="gone")
    kept = [each for each in server.folder.rglob(file["file_id"]) if each.is_file()]
    assert [each.read_bytes() for each in kept] == [PNG]
    assert kept[0].stat().st_mode & 0o777 == 0o400
    assert server.client.delete("/v1/sessions/gone").status_code == 204
    assert not kept[0].exists()
    assert server.client.get("/v1/sessions/gone/files").json()["files"] == []


def test_what_is_no_file_is_refused(server: Server) -> None:
    path = "/v1/sessions/refused/files"
    empty = server.client.post(path, content=b"")
    assert (empty.status_code, empty.json()["code"]) == (422, "invalid")
    large = server.client.post(path, content=b"a" * 200_001)
    assert (large.status_code, large.json()["code"]) == (413, "file_too_large")
    unannounced = server.client.post(path, content=iter([b"a" * 100_000] * 3))
    assert (unannounced.status_code, unannounced.json()["code"]) == (413, "file_too_large")
    form = server.client.post(path, files={"file": ("a.png", PNG)})
    assert (form.status_code, "--data-binary" in form.json()["detail"]) == (422, True)
    assert server.client.get(path).json()["files"] == []
    unknown = ran(server, [{"file": "file_" + "0" * 32}], "refused")
    assert (unknown.status_code, "has none of this id" in unknown.json()["detail"]) == (422, True)
    others = uploaded(server, session="other")
    assert ran(server, [{"file": others["file_id"]}], "refused").status_code == 422
    assert list(Path(server.folder).rglob("incoming/file_*")) == []


def test_a_kill_while_uploading_leaves_nothing(server: Server) -> None:
    kept = uploaded(server, session="killed")
    host, _, port = server.url.removeprefix("http://").partition(":")

    def incoming() -> list[Path]:
        return list(Path(server.folder).rglob("incoming/file_*"))

    with socket.create_connection((host, int(port))) as half:
        head = "POST /v1/sessions/killed/files HTTP/1.1", "Host: localhost", "Content-Length: 90000", "", ""
        half.sendall("\r\n".join(head).encode() + b"a" * 40_000)
        until(incoming, "the upload has begun")
        server.kill()
    assert len(incoming()) == 1
    server.start()
    until(lambda: not incoming(), "what is left of it is removed")
    assert server.client.get("/v1/sessions/killed/files").json()["files"] == [kept]
    assert server.client.get(f"/v1/sessions/killed/files/{kept['file_id']}").content == PNG


@pytest.mark.parametrize("place", ["renamed", "committed"])
def test_a_kill_once_a_file_is_at_its_place_leaves_all_of_it_or_nothing(place: str, tmp_path: Path) -> None:
    """Between the rename and the commit of its record, and between that and the answer."""

    def contents() -> list[bytes]:
        return [each.read_bytes() for each in sorted(tmp_path.rglob("file_*")) if each.is_file()]

    with serving(TARGETS / "kills_upload.py", folder=tmp_path, variables={"KILLED": place}) as server:
        with pytest.raises(httpx.TransportError):
            server.client.post("/v1/sessions/s/files", params={"name": "a.png"}, content=PNG)
        assert server.ended() == -signal.SIGKILL
        assert contents() == [PNG], "its content is at its place"
        server.variables = {}
        server.start()
        files = server.client.get("/v1/sessions/s/files").json()["files"]
        if place == "committed":
            (file,) = files
            assert server.client.get(f"/v1/sessions/s/files/{file['file_id']}").content == PNG
        else:
            assert files == []
            until(lambda: contents() == [], "what no record names is removed")
        server.close()
        assert contents() == [PNG] * len(files)
        assert verify(tmp_path / "journal.db").sound


def test_the_client_and_the_command_upload_download_and_delete(server: Server, tmp_path: Path) -> None:
    given = tmp_path / "note.md"
    given.write_text("# Hello\n")
    with Client(server.url) as client:
        file = client.upload(given, "ada")
        assert (file.name, file.media_type, file.size, file.named) == ("note.md", "text/markdown", 8, False)
        assert client.upload(b"\0", "ada", name="../x").name == "x"
        assert [each.file_id for each in client.files("ada")] == sorted(each.file_id for each in client.files("ada"))
        assert len(client.files("ada", limit=1)) == 1
        assert client.download(file.file_id, "ada") == b"# Hello\n"
        assert client.chat([{"file": file.file_id}], "ada").output == "seen"
        with pytest.raises(NotFound):
            client.download(file.file_id, "bob")
        with pytest.raises(ClientError, match="cannot be read"):
            client.upload(tmp_path / "none", "ada")

    def command(*more: str) -> "subprocess.CompletedProcess[str]":
        return typed("files", "ada", "--url", server.url, *more, folder=tmp_path)

    with Client(server.url) as client:
        listed = json.loads(command("--json").stdout)["files"]
        assert [each["file_id"] for each in listed] == [each.file_id for each in client.files("ada")]
        assert "is written" in command("--download", file.file_id, "--output", "copy.md").stdout
        assert (tmp_path / "copy.md").read_bytes() == b"# Hello\n"
        done = command("--upload", str(given)).stdout
        assert f'{{"file": "{done.partition(" ")[0]}"}}' in done
        assert "exists" in command("--download", file.file_id).stderr, "it replaces nothing without being told"
        assert "is deleted" in command("--delete", file.file_id).stdout
        again = command("--delete", file.file_id)
        assert again.returncode != 0
        assert "`strandline files SESSION` lists" in " ".join(again.stderr.split())


def unpacked(data: bytes) -> tuple[dict[str, list[dict[str, Any]]], dict[str, bytes]]:
    """Return the lines of a zip, by name, and the files in it."""
    with ZipFile(io.BytesIO(data)) as packed:
        assert packed.testzip() is None
        content = {each: packed.read(each) for each in packed.namelist()}
    lines = {
        name: [json.loads(line) for line in each.splitlines()] for name, each in content.items() if ".json" in name
    }
    return lines, {name: each for name, each in content.items() if name not in lines}


def test_a_session_is_exported_as_one_zip(server: Server, tmp_path: Path) -> None:
    first, second = uploaded(server, session="all"), uploaded(server, b"a,b\n" * 40_000, "b.csv", "all")
    assert ran(server, [{"file": first["file_id"]}, {"text": "0"}], "all").json()["output"] == "seen"
    for number in range(1, 102):
        server.client.post("/v1/sessions/all/runs", json={"input": str(number)})
    assert ran(server, [{"text": "last"}], "all").json()["output"] == "seen"
    assert server.client.patch("/v1/sessions/all", json={"options": {"priority": 2}}).status_code == 200

    answer = server.client.get("/v1/sessions/all/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert answer.headers["content-disposition"] == 'attachment; filename="all.zip"'
    lines, content = unpacked(answer.content)
    assert lines["session.json"] == [server.client.get("/v1/sessions/all").json()]
    assert [each["index"] for each in lines["history.jsonl"]] == list(range(206))
    assert lines["history.jsonl"][-100:] == server.client.get("/v1/sessions/all/history?limit=100").json()["messages"]
    assert lines["history.jsonl"][0]["content"][0]["file"]["id"] == first["file_id"]
    assert [each["run_id"] for each in lines["runs.jsonl"][::-1]] == list(
        dict.fromkeys(each["run_id"] for each in lines["history.jsonl"])
    )
    assert lines["files.jsonl"] == server.client.get("/v1/sessions/all/files").json()["files"]
    assert lines["damaged.json"] == [{"runs": [], "files": []}]
    assert content == {
        f"files/{first['file_id']}/a.png": PNG,
        f"files/{second['file_id']}/b.csv": b"a,b\n" * 40_000,
    }
    assert server.client.head("/v1/sessions/all/export").status_code == 200
    assert server.client.get("/v1/sessions/none/export").status_code == 404

    next(each for each in server.folder.rglob(second["file_id"]) if each.is_file()).unlink()
    with Client(server.url) as client:
        lines, content = unpacked(client.export("all"))
        assert lines["damaged.json"] == [{"runs": [], "files": [second["file_id"]]}]
        assert [*content] == [f"files/{first['file_id']}/a.png"]
        with pytest.raises(NotFound):
            client.export("none")
    done = typed("export", "all", "--url", server.url, folder=tmp_path)
    assert "all.zip is written." in done.stdout, done.stderr
    assert unpacked((tmp_path / "all.zip").read_bytes())[0] == lines
    assert "exists" in typed("export", "all", "--url", server.url, folder=tmp_path).stderr


def test_what_names_a_deleted_file_already_is_replaced_edited_and_sent_again(server: Server) -> None:
    file = uploaded(server, b"a note", "a.txt", "gone")
    naming = [{"file": file["file_id"]}, {"text": "Read it."}]
    first = ran(server, naming, "gone").json()["run_id"]
    server.client.post("/v1/sessions/gone/pause").raise_for_status()
    waits = server.client.post("/v1/sessions/gone/runs", json={"input": "wait"}).json()["run_id"]
    assert server.client.patch(f"/v1/runs/{waits}", json={"input": naming}).status_code == 200
    schedule = server.client.post("/v1/schedules", json={"session_id": "gone", "input": naming, "cron": "0 0 1 1 *"})
    server.client.delete(f"/v1/sessions/gone/files/{file['file_id']}").raise_for_status()

    edits = (f"/v1/runs/{waits}", f"/v1/schedules/{schedule.json()['schedule_id']}")
    for given in (naming, [*naming, {"text": "Now."}]):
        answers = [server.client.patch(each, json={"input": given}) for each in edits]
        assert [each.status_code for each in answers] == [200, 200], [each.text for each in answers]
    assert ran(server, naming, "gone").status_code == 422
    server.client.post("/v1/sessions/gone/cancel").raise_for_status()
    server.client.post("/v1/sessions/gone/resume").raise_for_status()
    again = server.client.post(f"/v1/runs/{first}/again", headers={"Prefer": "wait=30"}, timeout=40)
    assert (again.status_code, again.json().get("output")) == (200, "seen"), again.text
    assert server.history("gone")[0]["content"][0]["file"]["name"] == "a.txt"


def test_any_server_takes_and_sends_the_files_of_any_session(database: str, tmp_path: Path) -> None:
    """An upload through another server than the session's own, whole and refused; each reads it at both."""
    flags = ("--files", str(tmp_path / "uploads"), "--max-file-bytes", "300000")
    data = bytes(range(256)) * 1000
    with checkpoints() as at, two(at, database, tmp_path, flags=(flags, flags)) as (owner, other):
        (session,) = sessions_of(owner, other, 1)
        file = uploaded(other, data, "a.bin", session)
        assert (file["size"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        too_large = other.client.post(f"/v1/sessions/{session}/files", content=data * 2)
        assert (too_large.status_code, too_large.json()["code"]) == (413, "file_too_large")
        for server in (owner, other):
            path = f"/v1/sessions/{session}/files"
            assert server.client.get(path).json()["files"] == [file]
            assert server.client.get(f"{path}/{file['file_id']}").content == data
        assert len([each for each in (tmp_path / "uploads").rglob("file_*") if each.is_file()]) == 1
        owner.kill()
        assert other.client.get(f"/v1/sessions/{session}/files/{file['file_id']}").content == data
        assert other.client.delete(f"/v1/sessions/{session}/files/{file['file_id']}").status_code == 204
        assert other.client.get(f"/v1/sessions/{session}/files").json()["files"] == []

"""Sessions that begin with the history of another one, at real servers, over real kills."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, Server, ran, serving, until
from acceptance.test_any_server import sessions_of, two
from acceptance.test_going_back import say, sent, users
from strandline._exits import REFUSED
from strandline._journal.verify import verify
from strandline.client import Client, Conflict

AGENT = TARGETS / "agent.py"
_WAITS = "SELECT 1 FROM pg_locks WHERE relation = 'forks'::regclass AND NOT granted"


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def fork(server: Server, of: str = "default", *, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": f'"{key}"'}
    return server.client.post(f"/v1/sessions/{of}/fork", json=body or None, headers=headers)


def forks_of(server: Server, of: str = "default") -> list[str]:
    found = server.client.get(f"/v1/sessions/{of}/tree").raise_for_status().json()["forks"]
    return [each["session_id"] for each in found]


def test_a_session_is_forked_continued_and_outlives_its_source(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment, installed=True) as server:
        first = say(server, "one a")
        say(server, "two b")
        made = fork(server, session_id="plan-b", after=first["run_id"])
        assert made.status_code == 201, made.text
        assert made.headers["location"] == "/v1/sessions/plan-b"
        origin = {"session_id": "default", "run_id": first["run_id"]}
        assert made.json() == {
            "session_id": "plan-b",
            "forked_from": origin,
            "messages": 4,
            "agent_state": "restored",
        }
        say(server, "history", "plan-b")
        assert users(server, "plan-b") == ["one a", "history"]
        assert users(server) == ["one a", "two b"]
        assert server.client.get("/v1/sessions/plan-b").json()["forked_from"] == origin
        assert "forked_from" not in server.client.get("/v1/sessions/default").json()
        server.kill()
        server.start()
        assert server.client.delete("/v1/sessions/default").status_code == 204
        edited = say(server, "three", "plan-b", after=first["run_id"])
        assert edited["output"] == "three"
        assert users(server, "plan-b") == ["one a", "three"]
        shown = server.client.get("/v1/sessions/plan-b/history").json()["messages"]
        runs = [each["run_id"] for each in shown]
        assert runs == [first["run_id"]] * 4 + [edited["run_id"]] * 2
        assert (at.steps.count("one a"), at.steps.count("two b")) == (1, 1)
        server.close()
        assert verify(tmp_path / "journal.db").sound


def test_a_request_that_is_sent_again_makes_one_session(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        say(server, "one")
        made = fork(server, key="k")
        assert made.status_code == 201, made.text
        say(server, "two")
        server.kill()
        server.start()
        again = fork(server, key="k")
        assert (again.status_code, again.json()) == (201, made.json())
        assert "idempotency-replayed" not in made.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert users(server, made.json()["session_id"]) == ["one"]
        reused = fork(server, key="k", after={"message": 0})
        assert (reused.status_code, reused.json()["code"]) == (422, "key_reused")
        assert fork(server, key="other").json()["session_id"] != made.json()["session_id"]
        assert fork(server).json()["session_id"] != fork(server).json()["session_id"]


@pytest.mark.parametrize("place", ["copied", "committed"])
def test_a_kill_in_the_middle_of_a_fork_leaves_all_of_it_or_nothing(place: str, tmp_path: Path) -> None:
    with serving(TARGETS / "kills_fork.py", folder=tmp_path, variables={"KILLED": place}) as server:
        first = say(server, "one")
        say(server, "two")
        body = {"session_id": "plan-b", "after": first["run_id"]}
        with pytest.raises(httpx.TransportError):
            fork(server, key="k", **body)
        assert server.ended() == -signal.SIGKILL
        server.variables = {}
        server.start()
        is_there = server.client.get("/v1/sessions/plan-b").status_code == 200
        assert is_there == (place == "committed")
        assert len(forks_of(server)) == is_there
        made = fork(server, key="k", **body)
        assert (made.status_code, made.json()["messages"], made.json()["agent_state"]) == (201, 2, "restored")
        assert ("idempotency-replayed" in made.headers) == is_there
        assert forks_of(server) == ["plan-b"]
        assert say(server, "three", "plan-b")["output"] == "one | three"
        assert say(server, "three")["output"] == "one | two | three"
        server.close()
        assert verify(tmp_path / "journal.db").sound


def test_a_kill_while_a_database_copies_leaves_all_of_it_or_nothing(database: str, tmp_path: Path) -> None:
    import psycopg

    with serving(TARGETS / "remembers.py", folder=tmp_path, journal=database) as server:
        first = say(server, "one")
        say(server, "two")
        body = {"session_id": "plan-b", "after": first["run_id"]}
        with psycopg.connect(database) as other, psycopg.connect(database, autocommit=True) as seen:
            other.execute("LOCK TABLE forks IN SHARE MODE")
            lost = server.submit(fork, server, key="k", **body)
            until(lambda: seen.execute(_WAITS).fetchone() is not None, "the copy is made, and its record waits")
            server.kill()
            assert isinstance(lost.exception(), httpx.TransportError)
        server.start()
        there = forks_of(server)
        assert there == ["plan-b"] * (server.client.get("/v1/sessions/plan-b").status_code == 200)
        made = fork(server, key="k", **body)
        assert (made.status_code, made.json()["messages"], made.json()["agent_state"]) == (201, 2, "restored")
        assert ("idempotency-replayed" in made.headers) == bool(there)
        assert forks_of(server) == ["plan-b"]
        assert say(server, "three", "plan-b")["output"] == "one | three"
        assert say(server, "three")["output"] == "one | two | three"
        server.close()
        done = ran("journal", "verify", database, folder=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_no_source_no_end_and_no_new_id(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        first = say(server, "one")
        other = say(server, "other", "s2")
        at.hold("busy a")
        busy = say(server, "busy a", wait=0)
        at.reached("busy a")
        refused: Any = (
            (fork(server, "nobody"), 404, "not_found"),
            (fork(server, after="run_none"), 404, "not_found"),
            (fork(server, after=other["run_id"]), 404, "not_found"),
            (fork(server, after={"message": 2}), 404, "not_found"),
            (fork(server, after=busy["run_id"]), 409, "cannot_go_back"),
            (fork(server, session_id="s2"), 409, "session_exists"),
            (fork(server, session_id="default"), 409, "session_exists"),
            (fork(server, session_id="a/b"), 422, "invalid"),
            (fork(server, after=5), 422, "invalid"),
            (fork(server, after={"message": -1}), 422, "invalid"),
            (fork(server, at="x"), 422, "invalid"),
        )
        for answer, status, code in refused:
            assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert len(server.client.get("/v1/sessions").json()["sessions"]) == 2
        assert fork(server, session_id="now").json()["forked_from"]["run_id"] == first["run_id"]
        assert users(server, "now") == ["one"]
        at.release()
        server.quiet()


def test_a_question_is_closed_in_the_fork_alone(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        asking = say(server, "one @a")
        assert asking["status"] == "needs_input"
        made = fork(server, session_id="other", after=asking["run_id"])
        assert made.status_code == 201, made.text
        assert say(server, "two b", "other")["output"] == "two: did b"
        (question,) = server.run(asking["run_id"])["input_requests"]
        responses = {"responses": [{"id": question["id"], "response": "yes"}]}
        answered = sent(server, "", input=responses)
        assert answered.json()["output"].startswith("one: ")
        late = fork(server, after=asking["run_id"])
        assert (late.status_code, late.json()["code"]) == (409, "cannot_go_back")
        assert answered.json()["run_id"] in late.json()["detail"]


def test_the_client_and_the_command_fork(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server, Client(server.url) as client:
        first = say(server, "one")
        say(server, "two")
        made = client.fork(to="by-client", after=first["run_id"])
        assert (made.session_id, made.messages, made.forked_from.run_id) == ("by-client", 2, first["run_id"])
        assert client.fork(after=1).messages == 2
        assert client.fork(idempotency_key="k") == client.fork(idempotency_key="k")
        with pytest.raises(Conflict, match="choose another id"):
            client.fork(to="default")
        done = ran(
            "fork", "default", "by-command", "--after", first["run_id"][-8:], "--url", server.url, folder=tmp_path
        )
        assert (done.returncode, done.stdout) == (0, "Session by-command begins with 2 messages of session default.\n")
        done = ran("fork", "by-command", "again", "--after", "#0", "--json", "--url", server.url, folder=tmp_path)
        assert json.loads(done.stdout)["forked_from"] == {"session_id": "by-command", "run_id": first["run_id"]}
        done = ran("fork", "default", "by-command", "--url", server.url, folder=tmp_path)
        assert (done.returncode, done.stdout) == (REFUSED, "")
        assert "choose another id" in " ".join(done.stderr.split())
        assert users(server, "again") == ["one"]


def test_any_server_forks_to_any_other(at: Checkpoints, database: str, tmp_path: Path) -> None:
    with two(at, database, tmp_path) as (first, second):
        (source, *others) = sessions_of(first, second, 3)
        one = say(second, "one a", source)
        say(first, "two", source)
        for server in (first, second):
            for number, new in enumerate(others):
                session_id = f"{new}{'ab'[server is first]}{number}"
                made = fork(server, source, session_id=session_id, after=one["run_id"])
                assert made.status_code == 201, made.text
                assert users(first, session_id) == ["hello", "one a"]
                assert say(second, "three", session_id)["output"] == "three"
        keyed = [fork(server, source, key="k") for server in (first, second)]
        assert keyed[0].json() == keyed[1].json()
        first.kill()
        assert fork(second, source, key="k").json() == keyed[0].json()
        assert say(second, "four", keyed[0].json()["session_id"])["output"] == "four"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_agent_has_what_was_copied(workers: str, tmp_path: Path) -> None:
    with serving(TARGETS / "remembers.py", "--workers", workers, folder=tmp_path) as server:
        first = say(server, "one")
        say(server, "two")
        for session_id, after in (("all", None), ("some", first["run_id"])):
            assert fork(server, session_id=session_id, after=after).status_code == 201
        assert say(server, "three", "all")["output"] == "one | two | three"
        assert say(server, "three", "some")["output"] == "one | three"
        assert say(server, "three")["output"] == "one | two | three"
        assert say(server, "four", "all", after=first["run_id"])["output"] == "one | four"


def test_agents_that_keep_their_history_are_not_forked(tmp_path: Path) -> None:
    with serving(TARGETS / "external.py", "--history", "session_manager", folder=tmp_path) as server:
        say(server, "one")
        refused = fork(server)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid")


def test_a_tree_is_read_and_drawn(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server, Client(server.url) as client:
        first = say(server, "one")["run_id"]
        second = say(server, "two")["run_id"]
        fork(server, session_id="plan-b", after=first)
        third = say(server, "three", after=first)["run_id"]
        shown = server.client.get("/v1/sessions/default/tree")
        assert shown.status_code == 200, shown.text
        main, branch = shown.json()["branches"]
        assert (main["first_run_id"], main["last_run_id"], main["superseded_from"]) == (first, second, 2)
        assert (branch["parent"], branch["after"], branch["after_run_id"]) == (0, 1, first)
        assert (branch["superseded"], main["superseded"]) == (False, False)
        assert "content" not in shown.text
        tree = client.tree()
        assert [each.session_id for each in tree.forks] == ["plan-b"]
        assert (tree.branches[1].start, tree.truncated) == (4, False)
        assert client.tree("plan-b").forked_from is not None
        assert server.client.get("/v1/sessions/none/tree").status_code == 404
        done = ran("tree", "default", "--url", server.url, folder=tmp_path)
        assert done.stdout.splitlines() == [
            "default",
            f"`- messages 0 to 3, {first[-8:]} to {second[-8:]}, superseded from 2 on",
            f"   |- messages 4 to 5, {third[-8:]}, after message 1",
            "   `- fork plan-b, after message 1",
        ]
        plain = ran("tree", "plan-b", "--url", server.url, "--json", folder=tmp_path)
        assert json.loads(plain.stdout) == server.client.get("/v1/sessions/plan-b/tree").json()


NOTES = """
from pathlib import Path

async def answer(message, session):
    notes = Path(session.workspace, "notes")
    if message.startswith("note "):
        notes.parent.joinpath("in").mkdir(exist_ok=True)
        notes.write_text(message.removeprefix("note "))
    return notes.read_text() if notes.exists() else "no notes"
"""


@pytest.fixture
def noting(tmp_path: Path) -> Iterator[Server]:
    """Return a server whose agent notes things in its session's workspace."""
    (tmp_path / "notes.py").write_text(NOTES)
    with serving("notes.py:answer", folder=tmp_path) as server:
        yield server


def folders(of: Server) -> list[str]:
    return sorted(each.name for each in (of.folder / "workspace").iterdir())


def test_a_workspace_is_copied_if_that_is_asked(noting: Server) -> None:
    say(noting, "note one")
    copied = fork(noting, session_id="copied", workspace="copy")
    assert (copied.status_code, copied.json()["workspace"]) == (201, "copied")
    assert "workspace" not in fork(noting, session_id="empty", workspace="empty").json()
    assert "workspace" not in fork(noting, session_id="silent").json()
    assert len(folders(noting)) == 2, "only copies have a folder before their first run"
    told = {each: say(noting, "what?", each)["output"] for each in ("copied", "empty", "silent")}
    assert told == {"copied": "one", "empty": "no notes", "silent": "no notes"}
    say(noting, "note two", "copied")
    assert [say(noting, "what?", each)["output"] for each in ("default", "copied")] == ["one", "two"]
    with Client(noting.url) as client:
        assert client.fork("copied", "third", workspace="copy").workspace == "copied"
        assert client.fork("third", "fourth").workspace is None
    done = ran("fork", "third", "fifth", "--workspace", "copy", "--url", noting.url, folder=noting.folder)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    assert say(noting, "what?", "fifth")["output"] == "two"
    refused = fork(noting, session_id="sixth", workspace="all")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")


def test_the_workspace_of_a_deleted_session_stays_as_it_is(noting: Server) -> None:
    say(noting, "note mine")
    say(noting, "note older", "again")
    assert noting.client.delete("/v1/sessions/again").status_code == 204
    made = fork(noting, session_id="again", key="k", workspace="copy")
    assert (made.status_code, made.json()["workspace"]) == (201, "kept")
    assert say(noting, "what?", "again")["output"] == "older"
    done = ran("fork", "default", "again", "--workspace", "copy", "--url", noting.url, folder=noting.folder)
    assert done.returncode == REFUSED
    assert noting.client.delete("/v1/sessions/again").status_code == 204
    done = ran("fork", "default", "again", "--workspace", "copy", "--url", noting.url, folder=noting.folder)
    assert "there was one for a session of this id" in done.stdout


def test_a_refused_fork_leaves_no_copy(noting: Server) -> None:
    say(noting, "note one")
    say(noting, "note two", "other")
    before = folders(noting)
    assert fork(noting, "none", session_id="x", workspace="copy").status_code == 404
    assert fork(noting, after="run_none", session_id="x", workspace="copy").status_code == 404
    assert fork(noting, session_id="other", workspace="copy").status_code == 409
    assert folders(noting) == before
    assert say(noting, "what?", "other")["output"] == "two"


def test_who_got_no_answer_sends_it_again_and_has_the_workspace(noting: Server) -> None:
    say(noting, "note one")
    before = folders(noting)
    made = fork(noting, session_id="new", key="k", workspace="copy")
    (copied,) = {*folders(noting)} - {*before}
    noting.kill()
    shutil.rmtree(noting.folder / "workspace" / copied)  # (as if it had been killed before the folder got its name)
    noting.start()
    again = fork(noting, session_id="new", key="k", workspace="copy")
    assert again.json() == made.json()
    assert say(noting, "what?", "new")["output"] == "one"
    assert fork(noting, session_id="new", key="k", workspace="copy").json() == made.json()


def test_a_workspace_is_not_copied_where_servers_share_a_database(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    with serving(AGENT, folder=tmp_path, journal=database, variables=at.environment) as server:
        say(server, "one")
        refused = fork(server, workspace="copy")
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
        assert "another server's machine" in refused.json()["detail"]
        assert fork(server, workspace="empty").status_code == 201

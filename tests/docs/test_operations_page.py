"""`docs/operations.md`: the commands of the run-book work, and lead where it says."""

import json
import re
import shlex
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]

from acceptance.server import TARGETS, Server, ran, serving, texts, until
from docs.page_table import claimed
from docs.pages import DOCS, ROOT, blocks, printed
from docs.test_metrics_page import NAMES, promtool, series
from strandline._config import descriptions
from strandline._journal.ownership import APPLICATION_ID, SCHEMA_VERSION
from strandline._telemetry.catalogue import METRICS

PAGE: Final = (DOCS / "operations.md").read_text()
SESSIONS: Final = ("ada", "bob", "eve")
JOURNAL: Final = "sqlite:.strandline/journal.db"
RULES: Final = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]


def section(heading: str, marks: str = "##") -> str:
    """Return what stands below a heading."""
    found = re.search(rf"^{marks} {re.escape(heading)}\n(.*?)(?=^#{{2,{len(marks)}}} |\Z)", PAGE, re.M | re.S)
    assert found is not None, heading
    return found[1]


def commands(test: str) -> list[str]:
    """Return the page's blocks that a test types."""
    return [each.text for each in claimed("operations.md", test)]


def test_every_alert_has_a_section_that_it_leads_to_and_no_section_is_left_over() -> None:
    headings = re.findall(r"^### (\w+)$", section("Alerts"), re.MULTILINE)
    assert headings == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"


@pytest.mark.parametrize("alert", [rule["alert"] for rule in RULES])
def test_every_section_says_what_it_means_how_to_confirm_it_and_what_to_do(alert: str) -> None:
    text = section(alert, "###")
    said = re.findall(r"^\*\*(It means|Confirm|Now|Tomorrow)\b", text, re.MULTILINE)
    assert said == ["It means", "Confirm", "Now", "Tomorrow"]
    confirm = text[text.index("**Confirm") : text.index("**Now")]
    assert "```" in confirm


def test_it_names_nothing_that_is_not_there() -> None:
    known = series() | {each.shown for each in METRICS}
    assert set(NAMES.findall(PAGE)) - known - {"strandline_agent_loop", "strandline_runs_"} == set()
    for name in re.findall(r"\| `(\w+)` \(", section("Sizing")):
        assert name in descriptions()


def test_what_verify_is_said_to_say_it_says() -> None:
    source = " ".join(path.read_text() for path in (ROOT / "src" / "strandline").rglob("*.py"))
    said = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| (.*?) \|", section("A damaged journal"), re.MULTILINE)))
    assert len(said) > 5
    for each in said:
        assert each in source, each


def test_prometheus_understands_the_queries(tmp_path: Path) -> None:
    queries = [each for block in blocks("operations.md", "promql") for each in re.split(r"\n(?! )", block.strip())]
    assert len(queries) > 5
    rules = [{"record": f"asked:{n}", "expr": each} for n, each in enumerate(queries)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "page", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yaml"))


# -- its commands --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server in whose folder the commands are typed, with something in it."""
    folder = tmp_path_factory.mktemp("night")
    shutil.copy(TARGETS / "remembers.py", folder / "agent.py")
    with serving("agent.py", folder=folder, journal=JOURNAL) as server:
        server.chat("hello", "ada")
        schedule = {"session_id": "ada", "input": "hello", "cron": "0 0 1 1 *"}
        assert server.client.post("/v1/schedules", json=schedule).status_code == 201
        yield server


def typed(command: str, server: Server) -> str:
    """Type commands of the page in the folder of a server; for its SESSION and RUN there are some."""
    (run,) = server.client.get("/v1/sessions/ada/runs?limit=1").json()["runs"]
    command = re.sub(r"\bSESSION\b", "ada", command)
    command = re.sub(r"\bRUN\b", run["run_id"], command)
    port = {"STRANDLINE_PORT": server.url.rpartition(":")[2]}
    if re.fullmatch(r"strandline [-\w ./]+", command):
        done = ran(*shlex.split(command)[1:], folder=server.folder, variables=port)
        assert done.returncode == 0, done.stderr
        return done.stdout
    return printed(command, folder=server.folder, url=server.url, **port)


def test_the_fields_of_health_are_there(server: Server) -> None:
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", section("Look first"), re.MULTILINE)))
    assert len(named) > 5
    assert set(named) <= set(server.health())


COMMANDS: Final = commands("test_every_command_of_the_night_can_be_typed_and_shows_something")


@pytest.mark.parametrize("command", sorted({line for each in COMMANDS for line in each.splitlines()}))
def test_every_command_of_the_night_can_be_typed_and_shows_something(command: str, server: Server) -> None:
    assert typed(command, server).strip()


def test_what_is_typed_at_one_of_several_servers_shows_something(database: str, tmp_path: Path) -> None:
    blocks = commands("test_what_is_typed_at_one_of_several_servers_shows_something")
    lines = sorted({line for each in blocks for line in each.splitlines()})
    assert len(lines) > 6
    variables = {"STRANDLINE_JOURNAL": database}
    shutil.copy(TARGETS / "remembers.py", tmp_path / "agent.py")
    with (
        serving("agent.py", folder=tmp_path, journal=database) as server,
        serving("agent.py", folder=tmp_path, journal=database),
    ):
        server.chat("hello", "ada")
        until(lambda: re.search(r"_partitions_owned [1-9]", server.client.get("/metrics").text), "it has a share")
        for line in lines:
            shown = printed(line, folder=tmp_path, url=server.url, **variables, STRANDLINE_PORT="0")
            assert shown.strip(), line


def test_the_probe_of_the_journal_is_a_run_like_any_other(server: Server) -> None:
    (probe,) = commands("test_the_probe_of_the_journal_is_a_run_like_any_other")
    reply = json.loads(typed(probe.splitlines()[0], server))
    assert server.run(reply["run_id"], wait_s=20)["status"] == "succeeded"


def test_the_commands_that_stand_in_sentences_are_there(server: Server) -> None:
    inline = sorted(set(re.findall(r"`(strandline (?:resume|answer|runs|cancel)\b[^`]*)`", PAGE)))
    assert len(inline) > 4
    for command in inline:
        if re.search(r"\bcancel RUN\b", command):
            continue  # of a run that has ended it is an error
        if not command.endswith((" runs", " cancel")):
            typed(command, server)


def test_the_new_version_is_tried_on_a_copy_that_executes_nothing(server: Server) -> None:
    (trial,) = commands("test_the_new_version_is_tried_on_a_copy_that_executes_nothing")
    before = server.client.get("/v1/sessions/ada/runs").json()["runs"]
    assert "none: it is sound" in typed(trial, server)
    with closing(sqlite3.connect(server.folder / "backups" / "tried.db")) as tried:
        kept = {run_id for (run_id,) in tried.execute("SELECT run_id FROM runs")}
    assert {run["run_id"] for run in before} <= kept


def test_what_a_session_said_can_be_deleted_and_old_runs_pruned(server: Server) -> None:
    (deleting,) = set(re.findall(r"`(curl -X DELETE [^`]*)`", PAGE))
    (pruning,) = commands("test_what_a_session_said_can_be_deleted_and_old_runs_pruned")
    server.chat("to be forgotten", "gone")
    typed(deleting.replace("SESSION", "gone"), server)
    assert server.history("gone") == []
    made = printed("strandline journal backup .strandline/journal.db old.db", folder=server.folder)
    assert "verified and on disk" in made
    assert printed(f"{pruning.strip()} old.db", folder=server.folder).strip()


# -- rehearsals ----------------------------------------------------------------------------------------


class Load:
    """Clients that ask one question after the other, each in a session of its own, and note what was answered."""

    def __init__(self, server: Server) -> None:
        self.answers: dict[str, tuple[str, str, str]] = {}
        """By run: its session, question and answer, in the order in which they were given."""
        self._server = server
        self._ends = threading.Event()
        self._clients = [threading.Thread(target=self._ask, args=(each,)) for each in SESSIONS]
        for each in self._clients:
            each.start()

    def _ask(self, session: str) -> None:
        number = 0
        while not self._ends.is_set():
            number += 1
            question = f"q{number}"
            answer = self._server.chat(question, session)
            self.answers[answer["run_id"]] = (session, question, answer["response"])

    def answered(self, beyond: int, each: int) -> None:
        """Return when each session has had `each` answers more than the first `beyond` of all."""

        def reached() -> bool:
            sessions = [session for session, _, _ in list(self.answers.values())[beyond:]]
            return all(sessions.count(session) >= each for session in SESSIONS)

        until(reached, f"{each} answers in each session")

    def end(self) -> None:
        self._ends.set()
        for each in self._clients:
            each.join()


def test_a_lost_journal_is_restored_from_a_backup_that_was_made_under_load(tmp_path: Path) -> None:
    """What had ended before is there, what came after is gone, and every conversation continues from there."""
    backing, restoring = commands("test_a_lost_journal_is_restored_from_a_backup_that_was_made_under_load")
    with serving(TARGETS / "remembers.py", folder=tmp_path, journal=JOURNAL) as server:
        load = Load(server)
        try:
            load.answered(beyond=0, each=4)
            before = dict(load.answers)
            assert "none: it is sound" in printed(backing, folder=tmp_path)
            since = len(load.answers)
            load.answered(beyond=since, each=3)
        finally:
            load.end()
        late = []
        for session in SESSIONS:
            after = [run_id for run_id, (questions, _, _) in list(load.answers.items())[since:] if questions == session]
            late += after[1:]  # of the first one nobody can say: it may have been under way when the copy was made
        server.kill()
        (tmp_path / ".strandline" / "journal.db").unlink()  # its WAL is left, and must not be mixed with the copy

        assert "none: it is sound" in printed(restoring, folder=tmp_path)
        server.start()
        server.quiet()
        for run_id, (session, question, answer) in before.items():
            run = server.run(run_id)
            assert (run["status"], run["session_id"], run["output"]) == ("succeeded", session, answer)
            assert question in texts(server.history(session), "user")
        assert len(late) >= len(SESSIONS)
        for run_id in late:
            assert server.client.get(f"/v1/runs/{run_id}").status_code == 404
        for session in SESSIONS:
            questions = texts(server.history(session), "user")
            assert questions == [f"q{number + 1}" for number in range(len(questions))]
            seen = server.chat("again", session)["response"].split(" | ")  # (its window may be shorter than all)
            assert len(seen) > 4
            assert seen == [*questions, "again"][-len(seen) :]
        server.terminate()
        assert server.ended() == 0
        assert "none: it is sound" in printed("strandline journal verify", folder=tmp_path)


def test_an_upgrade_is_rolled_back_to_what_the_old_version_had(tmp_path: Path) -> None:
    """The copy that the migration made is the old journal, and the new one is kept aside."""
    (rolling,) = commands("test_an_upgrade_is_rolled_back_to_what_the_old_version_had")
    file = tmp_path / ".strandline" / "journal.db"
    file.parent.mkdir()
    old = SCHEMA_VERSION - 1
    scripts = sorted(resources.files("strandline._journal").joinpath("schema").iterdir(), key=lambda each: each.name)
    with closing(sqlite3.connect(file, isolation_level=None)) as made:
        made.executescript("".join(each.read_text() for each in scripts[:old]))
        made.execute("INSERT INTO sessions (no, principal, session_id) VALUES (1, 'anonymous', 'kept')")
        made.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        made.execute(f"PRAGMA user_version = {old}")
    assert f"This version writes schema {SCHEMA_VERSION}." in PAGE
    with serving(TARGETS / "remembers.py", folder=tmp_path, journal=JOURNAL) as server:
        server.chat("after the upgrade", "lost")
        server.terminate()
        assert server.ended() == 0
        assert f"from schema {old} to {SCHEMA_VERSION}" in server.stderr
    assert (version_of(file), sessions_of(file)) == (SCHEMA_VERSION, ["kept", "lost"])
    assert not list(file.parent.glob("journal.db-*")), "as after each clean stop"
    printed(rolling, folder=tmp_path)
    assert (version_of(file), sessions_of(file)) == (old, ["kept"])
    assert sessions_of(tmp_path / "rolled-back" / "journal.db") == ["kept", "lost"]
    (trying,) = re.findall(r"^ +strandline (journal prune .*tried\.db)$", PAGE, re.M)  # (it migrates, too)
    (tmp_path / "backups").mkdir()
    shutil.copy(file, tmp_path / "backups" / "tried.db")
    assert ran(*trying.split(), folder=tmp_path).returncode == 0
    assert version_of(tmp_path / "backups" / "tried.db") == SCHEMA_VERSION


def version_of(file: Path) -> Any:
    with closing(sqlite3.connect(file)) as opened:
        return opened.execute("PRAGMA user_version").fetchone()[0]


def sessions_of(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as opened:
        return [name for (name,) in opened.execute("SELECT session_id FROM sessions ORDER BY session_id")]

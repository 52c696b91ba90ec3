"""Clients with sessions of their own that go back, are restored and forked, and have files and default options.

A run of theirs that crashed in a tool is taken up by what the ledger says that the tool has done. Each knows what its
conversation must be, and looks whether it is: after what it did, and in the end.
"""

import asyncio
import hashlib
import io
import json
import random
import time
from typing import Any, Final
from zipfile import BadZipFile, ZipFile

from msgspec import Struct, field

from soak import plan
from soak.desk import POLL_S, Desk
from soak.kept import KEPT, Content, Conversation, Marked, Resolution, conversation_of
from soak.records import Answered, SentRequest, ended_of_run
from soak.wire import Broken, Reply, Silent, transfer

CLIENTS: Final = 2
PAUSE_MS: Final = 150.0
DOES: Final = {
    "say": 8,
    "file": 3,
    "after": 3,
    "anew": 1,
    "again": 2,
    "restore": 2,
    "fork": 2,
    "download": 2,
    "collect": 3,
    "options": 3,
}
RESOLVES: Final = 0.7
"""How often a crashed run is taken up that can be."""
LONG: Final = 12
"""So many runs a session has at most, until its client takes a new one."""
BUSY_S: Final = 60.0
"""How long a session may be said to be busy that has no run any more: its server may have died."""

Course = tuple[str, ...]


class Branch(Struct, kw_only=True):
    """A session as its client knows it."""

    session: str
    now: Course = ()
    at: dict[str, Course] = field(default_factory=dict)
    """By run: the conversation from its beginning to the end of that run."""
    left: list[Course] = field(default_factory=list)
    """What was superseded, each time when it was."""
    own: list[str] = field(default_factory=list)
    """The runs that are this session's: not those that were copied."""
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """The digests of its files, by id."""
    mark: str = ""
    """What its options add to the metadata of its runs; "": nothing."""
    late: set[str] = field(default_factory=set)
    """The marks that it may get again, by requests that had no answer."""
    marks: dict[str, str] = field(default_factory=dict)
    """By run: its own mark, as it was shown."""
    crashed: set[str] = field(default_factory=set)
    """Its runs that crashed."""

    @property
    def allowed(self) -> frozenset[str]:
        """The marks that its options may have now."""
        return frozenset({self.mark, *self.late})


class Branches:
    """All of these clients. `sessions` are those that they have had."""

    def __init__(self, desk: Desk, *, seed: int) -> None:
        self.sessions: list[Branch] = []
        self.done: dict[str, int] = dict.fromkeys((*DOES, "resolve"), 0)
        self._desk = desk
        self._records = desk.records
        self._seed = seed

    def start(self, group: asyncio.TaskGroup) -> None:
        """Have them begin; each ends with what it does when everybody is to stop."""
        for number in range(CLIENTS):
            group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._seed} branches {number}")
        sessions, labels = 0, 0
        branch: Branch | None = None
        while not self._desk.stopping:
            await asyncio.sleep(chance.expovariate(1 / PAUSE_MS) / 1000)
            if branch is None or len(branch.own) >= LONG:
                branch = self._new(f"{KEPT}{number}.{sessions}")
                sessions += 1
            what = chance.choices(list(DOES), list(DOES.values()))[0]
            label = f"k{number}-{labels}"
            labels += 1
            match what:
                case "file":
                    await self._say_with_file(branch, label, chance)
                case "after" if branch.at:
                    await self._say(branch, label, chance, after=chance.choice(list(branch.at)))
                case "anew" if branch.at:
                    await self._say(branch, label, chance, after="")
                case "again" if branch.own:
                    await self._again(branch, label, chance.choice(branch.own))
                case "restore" if branch.own:
                    await self._restore(branch, chance.choice(branch.own))
                case "fork" if branch.at:
                    after = chance.choice(list(branch.at)) if chance.random() < 0.7 else None
                    branch = await self._fork(branch, f"{KEPT}{number}.{sessions}", label, after)
                    sessions += 1
                case "collect":
                    together = [label, *(f"k{number}-{labels + n}" for n in range(chance.randint(1, 3)))]
                    labels += len(together) - 1
                    await self._collect(branch, together, chance)
                case "options" if branch.at:
                    await self._change_options(branch, label if chance.random() < 0.7 else "")
                case "download" if branch.files:
                    await self._download(branch, chance.choice(list(branch.files)))
                case _:
                    await self._say(branch, label, chance)
            self.done[what] += 1
            await self.look(branch)
            while branch.now and branch.now[-1] in branch.crashed and chance.random() < RESOLVES:
                label = f"k{number}-{labels}"
                labels += 1
                if not await self._resolve(branch, label, branch.now[-1]):
                    break
                await self.look(branch)

    def _new(self, session: str) -> Branch:
        self.sessions.append(branch := Branch(session=session))
        return branch

    # -- runs --------------------------------------------------------------------------------------

    async def _say(
        self, branch: Branch, label: str, chance: random.Random, *, after: str | None = None, file: str = ""
    ) -> None:
        """Say something: at the end, after a run, or ("") at the beginning."""
        text = plan.message(chance, label)
        body: dict[str, Any] = {"input": [{"file": file}, {"text": text}] if file else text}
        body |= {} if after is None else {"after": after or None}
        run_id = await self._run(branch, label, f"/v1/sessions/{branch.session}/runs", body, text=text, after=after)
        branch.texts[run_id] = text
        self._continue(branch, run_id, branch.now if after is None else branch.at.get(after, ()))

    async def _collect(self, branch: Branch, labels: list[str], chance: random.Random) -> None:
        """Send messages that are to be one turn. They may become several: a server may die between them."""
        path = f"/v1/sessions/{branch.session}/runs"
        said: dict[str, str] = {}
        for label in labels:
            words = [word for word in plan.message(chance, label).split() if word != "error"]
            text = f"{' '.join(words)} "
            body = {"input": text, "if_busy": "collect", "collect": {"quiet": 0.3, "max_wait": 3}}
            reply = await self._accept(branch, label, path, body, text=text, if_busy="collect")
            said[reply.body["run_id"]] = text
        turns: dict[str, str] = {}
        for run_id, text in said.items():
            run = await self._end(branch, run_id)
            host = run["joined"] or run_id
            turns[host] = turns.get(host, "") + text
        branch.texts |= turns
        for host in turns:
            self._continue(branch, host, branch.now)

    async def _again(self, branch: Branch, label: str, run_id: str) -> None:
        text = branch.texts[run_id]
        again = await self._run(branch, label, f"/v1/runs/{run_id}/again", {}, text=text, again=run_id)
        branch.texts[again] = text
        self._continue(branch, again, branch.at[run_id][:-1])

    def _continue(self, branch: Branch, run_id: str, before: Course) -> None:
        if branch.now != before:
            branch.left.append(branch.now)
        branch.now = branch.at[run_id] = (*before, run_id)
        branch.own.append(run_id)

    async def _run(self, branch: Branch, label: str, path: str, body: dict[str, Any], **known: Any) -> str:
        """Have a run accepted, wait for its end, and return its id."""
        run_id: str = (await self._accept(branch, label, path, body, **known)).body["run_id"]
        await self._end(branch, run_id)
        return run_id

    async def _accept(self, branch: Branch, label: str, path: str, body: dict[str, Any], **known: Any) -> Reply:
        """Have a run accepted, under a key, and return the answer."""
        self._records.requests[label] = SentRequest(
            name=label, session=branch.session, sent=time.monotonic_ns(), key=label, **known
        )
        reply = await self._requested("POST", path, {**body, "metadata": {"label": label}}, key=label, label=label)
        run_id: str = reply.body["run_id"]
        at_ns = time.monotonic_ns()
        self._records.answered.append(Answered(label=label, status_code=202, at_ns=at_ns, run_id=run_id))
        return reply

    async def _end(self, branch: Branch, run_id: str, *, continues: str = "") -> dict[str, Any]:
        """Return a run once it has ended; one that continues another one has the mark of that, if it has one."""
        while True:
            run: dict[str, Any] = (
                await self._requested("GET", f"/v1/runs/{run_id}", headers="Prefer: wait=5\r\n")
            ).body
            if run["ended_at"] is not None:
                break
        mark = branch.marks[run_id] = run["metadata"].get("mark", "")
        kept = branch.marks.get(continues, "")
        allowed = frozenset({kept}) if kept else branch.allowed
        self._mark(branch, f"run {run_id}", mark, allowed)
        if (ended := ended_of_run(run)) is not None and ended.kind == "crashed":
            branch.crashed.add(run_id)
        return run

    async def _resolve(self, branch: Branch, label: str, run_id: str) -> bool:
        """Take a crashed run up, if a tool of it can have done anything; return whether one continues it."""
        reply, _ = await self._desk.until_answered("GET", f"/v1/runs/{run_id}/resolve")
        if reply.status_code == 409:
            return False
        self._desk.read_ledger()
        begun = {line.tool_use_id for line in self._desk.lines if line.kind == "begin"}
        tools = [each["tool_use_id"] for each in reply.body["tools"]]
        done = {each: f"checked {label} {number}" for number, each in enumerate(tools) if each in begun}
        found = [
            {"tool_use_id": each, "outcome": "done", "result": done[each]}
            if each in done
            else {"tool_use_id": each, "outcome": "not_done"}
            for each in tools
        ]
        text = branch.texts[run_id]
        self._records.requests[label] = SentRequest(
            name=label, session=branch.session, sent=time.monotonic_ns(), key=label, text=text
        )
        path = f"/v1/runs/{run_id}/resolve"
        reply = await self._requested("POST", path, {"tools": found}, key=label, label=label)
        made: str = reply.body["run_id"]
        at_ns = time.monotonic_ns()
        self._records.answered.append(Answered(label=label, status_code=202, at_ns=at_ns, run_id=made))
        ended = ended_of_run(await self._end(branch, made, continues=run_id))
        assert ended is not None
        self._records.kept.resolutions.append(
            Resolution(
                session=branch.session,
                label=label,
                crashed=run_id,
                run_id=made,
                done=done,
                not_done=frozenset(tools) - done.keys(),
                kind=ended.kind,
                text=ended.text,
            )
        )
        branch.texts[made] = text
        self._continue(branch, made, branch.at[run_id][:-1])
        self.done["resolve"] += 1
        return True

    async def _restore(self, branch: Branch, run_id: str) -> None:
        await self._requested("POST", f"/v1/runs/{run_id}/restore")
        if run_id not in branch.now:
            found = next(each for each in reversed(branch.left) if run_id in each)
            branch.left.append(branch.now)
            branch.now = found

    async def _fork(self, branch: Branch, session: str, key: str, after: str | None) -> Branch:
        body = {"session_id": session, **({} if after is None else {"after": after})}
        await self._requested("POST", f"/v1/sessions/{branch.session}/fork", body, key=key)
        fork = self._new(session)
        fork.now = branch.now if after is None else branch.at[after]
        fork.at = {run_id: branch.at[run_id] for run_id in fork.now}
        fork.texts, fork.files = dict(branch.texts), dict(branch.files)
        fork.mark, fork.late = branch.mark, set(branch.late)
        return fork

    async def _change_options(self, branch: Branch, mark: str) -> None:
        """Have the session's options add a mark to the metadata of its runs, or ("") nothing."""
        options = {"metadata": {"mark": mark}} if mark else None
        while True:
            reply, others = await self._desk.until_answered(
                "PATCH", f"/v1/sessions/{branch.session}", {"options": options}
            )
            if others or reply.status_code == 502:
                branch.late.add(mark)
            if reply.status_code == 200:
                break
            if reply.status_code != 502:
                raise Refused(f"PATCH of {branch.session} gives {reply.status_code}: {reply.body}")
        branch.mark = mark
        self._look_at_options(branch, reply.body, "the answer to a change")

    def _look_at_options(self, branch: Branch, session: dict[str, Any], what: str) -> None:
        mark = session["options"].get("metadata", {}).get("mark", "")
        self._mark(branch, what, mark, branch.allowed)

    def _mark(self, branch: Branch, what: str, shown: str, allowed: frozenset[str]) -> None:
        self._records.kept.marks.append(Marked(session=branch.session, what=what, shown=shown, allowed=allowed))

    async def _requested(
        self, method: str, path: str, body: object = None, *, headers: str = "", key: str = "", label: str = ""
    ) -> Reply:
        """Send a request until it is carried out: these sessions are at rest, and have all that is named."""
        headers += f"Idempotency-Key: {key}\r\n" if key else ""
        since = time.monotonic()
        while True:
            reply, others = await self._desk.until_answered(method, path, body, headers=headers)
            if others and label:
                self._records.unsure.add(label)
            if reply.status_code < 300:
                return reply
            is_busy = reply.status_code == 409 and reply.body["code"] == "session_busy"
            if not is_busy or time.monotonic() - since > BUSY_S:
                raise Refused(f"{method} {path} gives {reply.status_code}: {reply.body}")
            await asyncio.sleep(POLL_S)

    # -- files -------------------------------------------------------------------------------------

    async def _say_with_file(self, branch: Branch, label: str, chance: random.Random) -> None:
        content = b"\x00" + chance.randbytes(chance.choice((10, 3_000, 200_000)))
        path = f"/v1/sessions/{branch.session}/files?name={label}.bin"
        file_id: str = json.loads(await self._transferred("POST", path, content, 201))["file_id"]
        branch.files[file_id] = hashlib.sha256(content).digest()
        await self._say(branch, label, chance, file=file_id)

    async def _download(self, branch: Branch, file_id: str) -> None:
        content = await self._transferred("GET", f"/v1/sessions/{branch.session}/files/{file_id}", None, 200)
        self._got(branch, file_id, content, "a download")

    def _got(self, branch: Branch, file_id: str, content: bytes | None, how: str) -> None:
        digest = None if content is None else hashlib.sha256(content).digest()
        self._records.kept.contents.append(
            Content(session=branch.session, file_id=file_id, how=how, digest=digest, wanted=branch.files[file_id])
        )

    async def _transferred(self, method: str, path: str, content: bytes | None, code: int) -> bytes:
        """Send bytes, or have some sent, until it is done, and return what came."""
        while True:
            server = await self._desk.relay.ready()
            try:
                status_code, received = await transfer(server.port, method, path, content)
            except (Broken, Silent) as error:
                self._desk.blame(server, error)
                status_code, received = 503, b""
            if status_code == code:
                return received
            if status_code not in (502, 503):
                raise Refused(f"{method} {path} gives {status_code}: {received[:300]!r}")
            await asyncio.sleep(POLL_S)

    # -- looking -----------------------------------------------------------------------------------

    async def look(self, branch: Branch) -> None:
        """Look what a conversation is."""
        if not branch.at:
            return
        reply = await self._requested("GET", f"/v1/sessions/{branch.session}/history?limit=1000")
        runs, texts = conversation_of(reply.body["messages"])
        self._records.kept.conversations.append(
            Conversation(
                session=branch.session,
                runs=runs,
                wanted=branch.now,
                texts=texts,
                wanted_texts=tuple(branch.texts[run_id] for run_id in branch.now),
            )
        )

    async def look_at_all(self) -> None:
        """Look at all sessions in the end, and at what an export has of each."""
        for branch in self.sessions:
            await self.look(branch)
            if not branch.at:
                continue
            shown = await self._requested("GET", f"/v1/sessions/{branch.session}")
            self._look_at_options(branch, shown.body, "the session")
            exported = await self._transferred("GET", f"/v1/sessions/{branch.session}/export", None, 200)
            try:
                with ZipFile(io.BytesIO(exported)) as whole:
                    found = {name.split("/")[1]: whole.read(name) for name in whole.namelist() if name[:6] == "files/"}
                    lines = whole.read("history.jsonl").splitlines()
            except (BadZipFile, KeyError) as error:
                self._records.faults.append(f"the export of {branch.session} cannot be read: {error}")
                continue
            exported_runs = {json.loads(line)["run_id"] for line in lines}
            if missing := set(branch.at) - exported_runs:
                self._records.faults.append(f"the export of {branch.session} has no messages of {sorted(missing)}")
            for file_id in branch.files:
                self._got(branch, file_id, found.get(file_id), "an export")


class Refused(Exception):
    """A request was not carried out that must be."""

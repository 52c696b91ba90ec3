"""What every executing run is doing, for people at the server's own machine: `strandline stacks`.

The owner of a journal in a file has PATH.lock, which has its process id; a database has a row for each of its servers.
The command sends a process SIGUSR1, and the server writes a file that only its own user can read, since stacks reveal
what users do: PATH.stacks, or with a database one in the folder of workspaces. No HTTP route shows them.
"""

import os
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from strandline import _private as private
from strandline._engine.reading import RunStack
from strandline._journal.ownership import holder, locate, lock_of
from strandline.errors import SetupError

ANSWER_S: Final = 10.0
"""How long to wait for the server's report."""
ASK_AGAIN_S: Final = 1.0
"""After this long without a report the signal is sent again."""
POLL_S: Final = 0.02


class ServerProcess(NamedTuple):
    """A server over a database, and where it is."""

    id: int
    pid: int
    host: str


class NoServerAnswers(SetupError):
    """No server owns the journal, or the server does not answer."""

    code = "nobody_answers"


def render(stacks: Sequence[RunStack]) -> str:
    """Return a text with each run and where its code is."""
    if not stacks:
        return "No run is executing.\n"
    lines: list[str] = []
    for each in stacks:
        run = each.run
        lines.append(
            f"{run.run_id}  session {run.key.session_id}  attempt {run.attempt}  {each.phase}"
            f"  ({each.quiet_s:.1f} s without a sign of life)"
        )
        lines += [f"    {line}" for line in each.stack]
    return "\n".join(lines) + "\n"


def beside(journal: Path) -> Path:
    """Return where the server that owns the journal in a file writes its report."""
    path = locate(journal)
    return path.with_name(path.name + ".stacks")


def within(workspaces: Path, pid: int) -> Path:
    """Return where a server over a database writes its report: the folder may be shared with other machines."""
    return workspaces / f"{socket.gethostname()}-{pid}.stacks"


def write_report(report_file: Path, stacks: Sequence[RunStack]) -> None:
    """Write the report for the waiting command; whole or not at all."""
    private.make_folder(report_file.parent)
    draft = report_file.with_name(report_file.name + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(render(stacks))
    draft.replace(report_file)


def fetch_report(journal: Path) -> str:
    """Return the report of the server that owns the journal. Raises `NoServerAnswers`, which says what to do."""
    found = holder(locate(journal))
    if found is None:
        raise NoServerAnswers(
            f"no server has the journal {journal} open. Name the server's journal with --journal; in a container,"
            " run: docker exec CONTAINER strandline stacks"
        )
    pid = found.pid
    if found.host != socket.gethostname() or not _has_open(pid, lock_of(locate(journal))):
        raise NoServerAnswers(
            f"the journal belongs to process {pid} on host {found.host}, which is another machine. Run this there; in a"
            " container:"
            " docker exec CONTAINER strandline stacks"
        )
    return _report_of(pid, beside(journal))


def fetch_reports(servers: Iterable[ServerProcess], workspaces: Path) -> str:
    """Return the reports of the servers over a database that are on this machine. Raises `NoServerAnswers`."""
    everywhere = list(servers)
    here = [each for each in everywhere if each.host == socket.gethostname() and _exists(each.pid)]
    if not here:
        others = ", ".join(sorted({each.host for each in everywhere}))
        raise NoServerAnswers(
            "no server over this database is on this machine"
            + (f"; they are on {others}. Run this there" if others else ". `strandline cluster` shows the servers")
            + "; in a container, run: docker exec CONTAINER strandline stacks"
        )
    reports = (f"Server {each.id}, process {each.pid}\n{_or_why_not(each.pid, workspaces)}" for each in here)
    return "\n".join(reports)


def _or_why_not(pid: int, workspaces: Path) -> str:
    try:
        return _report_of(pid, within(workspaces, pid))
    except NoServerAnswers as error:
        return f"{error}\n"


def _report_of(pid: int, report_file: Path) -> str:
    report_file.unlink(missing_ok=True)
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        _signal(pid)
        if (report := _read_report(report_file)) is not None:
            return report
    raise NoServerAnswers(
        f"process {pid} has not answered within {ANSWER_S:g} s; `py-spy dump --pid {pid}` may show why"
    )


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _signal(pid: int) -> None:
    """Signal a process to write its report, but only if it handles the signal, which would otherwise end it."""
    if not _catches(pid, signal.SIGUSR1):
        raise NoServerAnswers(
            f"the journal is in use by process {pid}, which is not a server: perhaps a `strandline journal` command."
            " Try again when a server has it open"
        )
    try:
        os.kill(pid, signal.SIGUSR1)
    except PermissionError:
        raise NoServerAnswers(f"process {pid} belongs to another user: run this as that user, or as root") from None
    except ProcessLookupError:
        raise NoServerAnswers(f"the server, process {pid}, has just ended") from None


def _read_report(report_file: Path) -> str | None:
    """Return the report once it exists; None after a while, since another command may have taken it."""
    deadline = time.monotonic() + ASK_AGAIN_S
    while time.monotonic() < deadline:
        try:
            text = report_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            time.sleep(POLL_S)
            continue
        report_file.unlink(missing_ok=True)
        return text
    return None


def _catches(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal; True where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")), -1)
    return bool(caught >> (number - 1) & 1)


def _has_open(pid: int, path: Path) -> bool:
    """Return whether a process has a file open; True where the system does not say. Process ids are reused."""
    descriptors = Path("/proc") / str(pid) / "fd"
    if not Path("/proc/self/fd").is_dir():
        return True
    try:
        return any(os.path.realpath(each) == str(path) for each in descriptors.iterdir())
    except PermissionError:
        return True
    except FileNotFoundError:
        return False

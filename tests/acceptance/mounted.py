"""A web app of somebody's own, with Strandline in it, as a real uvicorn process: `MountedServer`."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from acceptance.server import Server


class MountedServer(Server):
    """`uvicorn MODULE:NAME`, in the folder of the module; requests go to `/agent` by default."""

    mounted_at = "/agent"
    announcement = re.compile(r"Uvicorn running on http://[\w.]+:(\d+)")

    def __init__(
        self,
        app: str,
        *flags: str,
        folder: Path,
        variables: Mapping[str, str] | None = None,
        mounted_at: str = "/agent",
    ) -> None:
        self.mounted_at = mounted_at
        super().__init__(app, *flags, folder=folder, variables=variables, journal=None)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "uvicorn", *self._target, *self._places, *self.flags]


@contextmanager
def mounted(
    app: str, *flags: str, folder: Path, variables: Mapping[str, str] | None = None, mounted_at: str = "/agent"
) -> Iterator[MountedServer]:
    """Serve an app for the time of a `with`. It must not have written of an error of its own."""
    server = MountedServer(app, *flags, folder=folder, variables=variables, mounted_at=mounted_at)
    try:
        server.start()
        yield server
    finally:
        server.close()
    assert "Traceback" not in server.stderr, server.stderr

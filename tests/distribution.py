"""Which tests stay together when several processes share them (`pytest -n 4`, `make test`).

Tests that share something which is made once stay in one process: a server that all tests of a module ask is started
once so, and the image is built once. All others go one by one to whichever process is free. The process that shares
them out has only their names, so what is shared is read off the module's text.
"""

from functools import cache
from pathlib import Path
from typing import Final

from xdist.scheduler.loadscope import LoadScopeScheduling

ROOT: Final = Path(__file__).resolve().parents[1]
CONTAINERS: Final = "containers"
USES_THE_IMAGE: Final = ("pytest.mark.docker", "image: str")
SHARES: Final = 'scope="module"'


class Distribution(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Gives out the groups first, the largest at the beginning, then all others."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """Return the name of the group of a test: its own where it shares nothing."""
    return _shared_in(nodeid.partition("::")[0]) or nodeid


@cache
def _shared_in(module: str) -> str | None:
    text = (ROOT / module).read_text()
    if any(each in text for each in USES_THE_IMAGE):
        return CONTAINERS
    return module if SHARES in text else None

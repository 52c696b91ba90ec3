"""What a commit must mean: it is on disk, and with synchronous standbys on theirs, before anybody is answered.

`synchronous_commit` may be less by a default of the server, the database or the role: each transaction that writes sets
it for itself, which holds behind a pooler too. What only the server's own configuration decides is logged.
"""

import logging
from typing import Final

from strandline._journal.postgres.wire import Wire

_log = logging.getLogger("strandline.journal")

DURABLE: Final = (
    "CASE WHEN current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')"
    " THEN set_config('synchronous_commit', 'on', true) END"
)
"""An expression that makes the commit of its transaction wait for the disk, and for synchronous standbys."""
_OFF: Final = (
    "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name"
)


def weaknesses(wire: Wire) -> list[str]:
    """Return, in sentences for people, what may lose or damage commits although they are on disk."""
    return [
        f"{name} is off in the database's configuration: when its machine fails, accepted runs can be lost and the"
        " journal damaged"
        for (name,) in wire.execute(_OFF)
    ]


def warn(wire: Wire) -> None:
    """Log what may lose or damage commits."""
    for each in weaknesses(wire):
        _log.warning("%s", each)

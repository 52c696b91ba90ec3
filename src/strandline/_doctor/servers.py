"""The servers that share a journal in PostgreSQL: whether each answers at the address that it gives the others.

They are asked from this machine, with a message as one server sends another, signed with the secret in the database.
"""

import asyncio
import time
from collections.abc import Iterator

from strandline._clock import SystemClock
from strandline._config import journal_database
from strandline._doctor.finding import Finding, note, ok, problem
from strandline._http.forwarding.others import Others, advice
from strandline._journal.cluster import Peer
from strandline._settings import Settings
from strandline.errors import JournalError


def servers(settings: Settings) -> Iterator[Finding]:
    """Check the servers over the journal in a database."""
    if (address := journal_database(settings)) is None:
        return
    try:
        from strandline._journal.postgres.roster import outsider

        found = outsider(address)
    except ImportError:  # (said of the journal)
        return
    except JournalError as error:
        yield note("servers", f"not asked: {error}")
        return
    if not found.peers:
        return

    async def ask() -> list[tuple[Peer, str]]:
        others = Others(lambda: found, SystemClock(), last=time.time_ns())  # (above those of every doctor before)
        try:
            return await others.unreached()
        finally:
            others.pool.close()

    unreached = asyncio.run(ask())
    for peer, why in unreached:
        shown = found.names[peer.id]
        yield problem(
            "servers",
            f"server {peer.id} ({shown}) cannot be reached from here at {peer.address or 'no address'}: {why}",
            advice(peer),
        )
    if not unreached:
        count = len(found.peers)
        what = "the only server is" if count == 1 else f"all {count} servers are"
        yield ok("servers", f"{what} reached from here at the address that others use")

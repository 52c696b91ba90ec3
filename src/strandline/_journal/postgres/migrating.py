"""`journal migrate` for a database: the tables of this version, without a server."""

from strandline._journal.postgres.maintenance import connected
from strandline._journal.postgres.schema import migrate


def migrate_database(address: str) -> int:
    """Make the tables, or bring them to this version; return of which they were, 0 if there were none."""
    with connected(address, "journal migrate") as wire:
        return migrate(wire)

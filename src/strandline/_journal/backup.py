"""Copies a journal as of one moment, with or without a running server."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from strandline._journal.driver import copy_into, damaged, is_damage, make_whole
from strandline._journal.ownership import existing
from strandline._journal.verify import at_one_moment
from strandline.errors import JournalDamaged, JournalError


def backup(file: Path, to: Path, on_step: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Copy the journal at `file` to the file `to`, which must not exist, and return its size in bytes.

    The copy is durable on return, and it appears whole or not at all. `on_step` gets the number of pages done and in
    total. Raises a `JournalError` that says what to do.
    """
    path = existing(file)
    if os.path.lexists(to):
        what = "a folder" if to.is_dir() else "there already"
        raise JournalError(f"{to} is {what}, and nothing is overwritten. Name a file that is not there yet.")

    def fill(draft: Path) -> None:
        at_one_moment(path, lambda source: copy_into(draft, source, path, "integrity_check", on_step))

    try:
        make_whole(to, to.with_name(f".{to.name}.{os.getpid()}.new"), fill, replace=False)
        return to.stat().st_size
    except JournalDamaged as error:
        raise JournalDamaged(f"{error} No backup was made.") from error
    except FileExistsError as error:
        raise JournalError(f"{to} is there already, and nothing is overwritten. Name another file.") from error
    except OSError as error:
        raise JournalError(f"The backup {to} cannot be written: {error.strerror}. Name another file.") from error
    except sqlite3.Error as error:
        if is_damage(error):
            raise JournalDamaged(f"{damaged(path, error)} No backup was made.") from error
        raise JournalError(
            f"The journal {path} cannot be copied to {to}: {error}. Make room there, or name another file."
        ) from error

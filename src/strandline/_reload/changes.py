"""Which file changes trigger a reload, and how they are detected.

Python files in the folder and below count, and the named settings files; not what programs write by themselves: hidden
folders (`.strandline`, `.venv`, `.git`), virtual environments, `__pycache__`, `node_modules`.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver

IGNORED: Final = frozenset({"__pycache__", "node_modules"})
MOST_FOLDERS: Final = 64
"""With more folders than this, they are polled every second instead of followed."""
POLL_S: Final = 1


class Changes:
    """Follows `folder` and `files` from `start` to `stop`; calls `changed` with each path, in a thread of its own.

    It follows each top folder separately, so that a virtual environment or a journal beside the code costs nothing.
    Where the system cannot follow them, it polls every second.
    """

    def __init__(self, folder: Path, files: Iterable[Path], changed: Callable[[Path], None]) -> None:
        self._folder = folder.resolve()
        self._files = frozenset(file.resolve() for file in files)
        self._changed = changed
        self._observer: BaseObserver | None = None

    def start(self) -> None:
        """Start; after the return no change is missed."""
        try:
            self._observer = self._follow()
        except OSError:
            self._observer = self._poll()

    def stop(self) -> None:
        """Stop, and wait for the thread."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()

    def counts(self, path: Path) -> bool:
        """Return whether a change of `path` triggers a reload."""
        if path in self._files:
            return True
        if path.suffix != ".py" or path.name.startswith(".") or self._folder not in path.parents:
            return False
        folder = self._folder
        for part in path.relative_to(self._folder).parts[:-1]:
            folder /= part
            if ignored(folder):
                return False
        return True

    def _follow(self) -> "BaseObserver":
        below = [entry for entry in self._folder.iterdir() if entry.is_dir() and not ignored(entry)]
        if len(below) > MOST_FOLDERS:
            raise OSError("too many folders")
        observer = Observer()
        handler = _Handler(self, lambda folder: observer.schedule(handler, str(folder), recursive=True))
        try:
            for folder in {self._folder, *(file.parent for file in self._files)}:
                if folder.is_dir():
                    observer.schedule(handler, str(folder), recursive=False)
            for folder in below:
                observer.schedule(handler, str(folder), recursive=True)
            observer.start()
        except OSError:
            observer.unschedule_all()
            raise
        return observer

    def _poll(self) -> "BaseObserver":
        from watchdog.observers.polling import PollingObserverVFS

        def entries(folder: str | None) -> Iterator["os.DirEntry[str]"]:
            with os.scandir(folder) as found:
                yield from (entry for entry in found if not (entry.is_dir() and ignored(Path(entry.path))))

        observer = PollingObserverVFS(os.stat, entries, polling_interval=POLL_S)
        handler = _Handler(self, lambda folder: None)
        observer.schedule(handler, str(self._folder), recursive=True)
        for folder in {file.parent for file in self._files} - {self._folder}:
            if folder.is_dir():
                observer.schedule(handler, str(folder), recursive=False)
        observer.start()
        return observer

    def note(self, path: Path) -> None:
        """Report a path that may have changed, if it counts."""
        if self.counts(path):
            self._changed(path)

    def is_top(self, folder: Path) -> bool:
        """Return whether a folder is directly below the followed one, and must be followed too."""
        return folder.parent == self._folder and not ignored(folder)


class _Handler(FileSystemEventHandler):
    """Translates events of watchdog."""

    def __init__(self, changes: Changes, follow: Callable[[Path], object]) -> None:
        self._changes = changes
        self._follow = follow

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Report each path of a changing event; opening and closing files changes nothing."""
        paths = [Path(os.fsdecode(path)) for path in (event.src_path, event.dest_path) if path]
        match event:
            case FileCreatedEvent() | FileModifiedEvent() | FileDeletedEvent() | FileMovedEvent():
                for path in paths:
                    self._changes.note(path)
            case DirCreatedEvent() | DirMovedEvent():
                self._entered(paths[-1])

    def _entered(self, folder: Path) -> None:
        """Follow a new folder, and report its present files, which came without events."""
        if self._changes.is_top(folder):
            try:
                self._follow(folder)
            except OSError:
                return
        for path in folder.rglob("*.py"):
            self._changes.note(path)


def ignored(folder: Path) -> bool:
    """Return whether changes in a folder never trigger a reload."""
    return folder.name.startswith(".") or folder.name in IGNORED or (folder / "pyvenv.cfg").exists()

"""Where keys come from, and which are valid now: the file may change while the server runs.

If a changed file is missing, empty or wrong, the previous keys stay valid, and the log says so. So a half-saved file
neither lets anybody in nor locks anybody out.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from strandline._access.keyring import ApiKey, Keyring, Line, lines_of, parse
from strandline._settings import Settings
from strandline.errors import SettingsError

_log = logging.getLogger("strandline.access")

POLL_S: Final = 2.0
"""How often the file is read. (A file in a mounted volume does not always report its changes.)"""
MOST_BYTES: Final = 4 * 1024 * 1024


class Keys:
    """The keys of a server. Belongs to the serving loop, except the reading of the file."""

    def __init__(self, settings: Settings) -> None:
        """Raises `SettingsError` if the keys are wrong."""
        self._listed = [
            Line(f"api_keys, entry {number}", text.strip()) for number, text in enumerate(settings.api_keys, 1)
        ]
        self._file = None if settings.api_keys_file is None else Path(settings.api_keys_file)
        self._read = b"" if self._file is None else _content(self._file)
        self.ring = self._ring(self._read)
        self._on_change: list[Callable[[], None]] = []
        self._failure = ""
        self._reloading = asyncio.Lock()

    @property
    def file(self) -> Path | None:
        """The file of keys."""
        return self._file

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each change, on the loop."""
        self._on_change.append(callback)

    async def follow(self) -> None:
        """Read the file regularly, until cancelled."""
        while self._file is not None:
            await asyncio.sleep(POLL_S)
            await self.reload()

    async def reload(self) -> None:
        """Use the keys in the file, if it has changed and is correct."""
        if self._file is None:
            return
        async with self._reloading:  # else the slower of two could bring older keys back
            await self._reload(self._file)

    async def _reload(self, file: Path) -> None:
        try:
            content = await asyncio.to_thread(_content, file, again=True)  # (the disk may be slow)
            if content == self._read:
                self._failed("")
                return
            ring = self._ring(content)
        except SettingsError as error:
            self._failed(str(error))
            return
        except RuntimeError as error:  # no thread is available
            self._failed(f"no thread is available ({error})")
            return
        gone = sum(each not in ring for each in self.ring.keys)
        new = sum(each not in self.ring for each in ring.keys)
        self.ring, self._read, self._failure = ring, content, ""
        _log.info("the keys have changed: %d new, %d gone, %d in all", new, gone, len(ring))
        for callback in self._on_change:
            callback()

    def _failed(self, why: str) -> None:
        if why and why != self._failure:
            _log.error("the new keys cannot be read, so the previous ones stay valid: %s", why)
        self._failure = why

    def _ring(self, content: bytes) -> Keyring:
        keys: list[ApiKey] = []
        if self._file is not None:
            try:
                keys = parse([*self._listed, *lines_of(content.decode("utf-8-sig"), str(self._file))])
            except UnicodeDecodeError:
                raise SettingsError(f"{self._file} (setting api_keys_file) is not UTF-8 text.") from None
            if len(keys) == len(self._listed):
                raise SettingsError(
                    f"{self._file} (setting api_keys_file) has no key. Make one: strandline keys new NAME --file"
                    f" {self._file}"
                )
        else:
            keys = parse(self._listed)
        return Keyring(keys)


def keys_of(settings: Settings) -> Keys | None:
    """Return the keys of the settings, None if no key is required. Raises `SettingsError`."""
    return Keys(settings) if settings.has_keys else None


def _content(file: Path, *, again: bool = False) -> bytes:
    if again and file.is_fifo():  # (such as a shell's `<(...)`: reading it would block the thread and the exit)
        raise SettingsError(f"{file} (setting api_keys_file) is a pipe, which can be read only once.")
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        what = f"Make it: strandline keys new NAME --file {file}"
        if isinstance(error, PermissionError):
            what = f"Let only the user that runs the server read it (uid {os.geteuid()})"
        raise SettingsError(
            f"the key file {file} (setting api_keys_file) cannot be read: {error.strerror or error}. {what}"
        ) from None
    if len(content) > MOST_BYTES:
        raise SettingsError(f"{file} (setting api_keys_file) is too large for a key file.")
    return content

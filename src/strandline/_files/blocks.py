"""Blocks that name files: in inputs and history they are references, and models see the files' contents.

In a request a block is `{"file": ID}`. What is stored has the record besides: `{"file": {"id", "name", "type",
"size"}}`, so that history can be shown, and says what a file was that is gone.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from strandline._files.kinds import SHOWN_AS
from strandline._files.names import safe_name
from strandline._files.store import COPIES, copy_for_tools, is_file_id, path_of
from strandline._model import Block, Input, Message, SessionKey

_log = logging.getLogger("strandline.files")

FILE: Final = "file"
LARGEST: Final = 20 * 1024 * 1024
"""Models get no content of larger files: no provider takes more in one message."""
GONE: Final = "[The file {name} ({type}, {size} bytes) has been deleted.]"
_THERE: Final = "[The file {name} ({type}, {size} bytes){where}]"
_WHERE: Final = ". Tools find a copy at {path}"
_NOT_IN_A_TITLE: Final = re.compile(r"[^A-Za-z0-9]+")
_TITLE: Final = 60
_SHOWN: Final = 6


def id_in(block: Mapping[str, Any]) -> str | None:
    """Return the id in a block that names a file; None if it names none."""
    match block:
        case {"file": str(file_id)} | {"file": {"id": str(file_id)}} if is_file_id(file_id):
            return file_id
    return None


def names_files(given: object) -> bool:
    """Return whether an input, as it was given, names a file. What is no input names none."""
    return isinstance(given, list) and any(isinstance(block, Mapping) and FILE in block for block in given)


def blocks_in(given: Input) -> dict[str, Block]:
    """Return the blocks in an input that name files, by their ids."""
    if isinstance(given, str):
        return {}
    return {file_id: block for block in given if (file_id := id_in(block)) is not None}


def ids_in(given: Input) -> list[str]:
    """Return the ids of the files that an input names, each once."""
    return list(blocks_in(given))


def reference(file_id: str, name: str, media_type: str, size: int) -> Block:
    """Return the block that is stored."""
    return {FILE: {"id": file_id, "name": name, "type": media_type, "size": size}}


def with_records(given: Input, blocks: Mapping[str, Block]) -> Input:
    """Return an input whose references are the stored ones, by id."""
    if isinstance(given, str):
        return given
    return [blocks.get(id_in(block) or "", block) for block in given]


def has_files(messages: Sequence[Any]) -> bool:
    """Return whether one of these messages names a file."""
    return any(type(block) is dict and FILE in block for message in messages for block in message["content"])


def copied(root: str, key: SessionKey, workspace: str, named: Sequence[Block]) -> dict[str, str]:
    """Copy the files that blocks name into a session's workspace; return their paths, by id."""
    paths: dict[str, str] = {}
    for block in named:
        if (file_id := id_in(block)) is None:
            continue
        record = block[FILE] if isinstance(block[FILE], dict) else {}
        kept, name = path_of(root, key, file_id), safe_name(str(record.get("name") or file_id))
        try:
            copy = copy_for_tools(kept, Path(workspace), file_id, name)
        except OSError as error:
            _log.warning("the file %s cannot be copied for tools: %s", file_id, error.strerror)
            continue
        if copy is not None:
            paths[file_id] = str(copy)
    return paths


class FileReader:
    """Reads the files of one session for models. `workspace` has the copies for tools, None if there are none."""

    def __init__(self, root: str, key: SessionKey, workspace: str | None) -> None:
        self._root = root
        self._key = key
        self._workspace = workspace

    def expanded(self, messages: Sequence[Any]) -> list[Any]:
        """Return messages with the contents of their files in place of the references. The arguments stay as they are.

        A file that is named twice is shown once. A block that no model takes becomes a text.
        """
        shown: set[str] = set()
        return [self._of_message(cast(Message, each), shown) if has_files([each]) else each for each in messages]

    def _of_message(self, message: Message, shown: set[str]) -> Message:
        content: list[Block] = []
        for block in message["content"]:
            content += self._blocks_of(block[FILE], shown) if type(block) is dict and FILE in block else [block]
        return {**message, "content": content}

    def _blocks_of(self, file: object, shown: set[str]) -> list[Block]:
        """Return what a model sees of one file: a text that names it, and its content."""
        file_id = id_in({FILE: file})
        if file_id is None:
            return [{"text": "[A file that is not known]"}]
        record = file if isinstance(file, dict) else {}
        name, media_type = safe_name(str(record.get("name") or file_id)), str(record.get("type"))
        named = {"name": name, "type": media_type, "size": record.get("size")}
        path = path_of(self._root, self._key, file_id)
        try:
            size = path.stat().st_size
            data = b"" if file_id in shown or media_type not in SHOWN_AS or size > LARGEST else path.read_bytes()
        except FileNotFoundError:
            return [{"text": GONE.format(**named)}]
        except OSError as error:
            _log.warning("the file %s of a run cannot be read: %s", file_id, error.strerror)
            return [{"text": _THERE.format(**named, where=", which cannot be read now")}]
        copy = None if self._workspace is None else Path(self._workspace, COPIES, file_id, name)
        where = _WHERE.format(path=copy) if copy is not None and copy.exists() else ""
        blocks: list[Block] = [{"text": _THERE.format(**named, where=where)}]
        if data:
            kind, form = SHOWN_AS[media_type]
            titled = {"name": _title(name, file_id)} if kind == "document" else {}
            blocks.append({kind: {"format": form, **titled, "source": {"bytes": data}}})
            shown.add(file_id)
        return blocks


def _title(name: str, file_id: str) -> str:
    """Return the name of a document as all providers accept it: few characters, and no two alike."""
    return f"{_NOT_IN_A_TITLE.sub('-', name)[:_TITLE].strip('-') or FILE}-{file_id[-_SHOWN:]}"

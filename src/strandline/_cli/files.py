"""`strandline files`: show, upload, download and delete the files of a session."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from strandline._cli import rows, say
from strandline._cli.address import KeyFile, Url
from strandline._cli.complete import SESSIONS
from strandline._cli.runs import All, Json, more, most, print_json, server_of, session_named
from strandline.errors import SetupError

HEAD: Final = ("FILE", "NAME", "TYPE", "BYTES", "UPLOADED")


def files(
    session: Annotated[str, typer.Argument(help="A session.", autocompletion=SESSIONS)],
    upload: Annotated[Path | None, typer.Option(help="Upload this file.", metavar="PATH")] = None,
    download: Annotated[str | None, typer.Option(help="Download the file with this id.", metavar="FILE")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it [its name].", metavar="PATH")
    ] = None,
    delete: Annotated[str | None, typer.Option(help="Delete the file with this id.", metavar="FILE")] = None,
    limit: Annotated[int, typer.Option(help="Files to show at most.", metavar="N", min=1)] = 100,
    everything: All = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show the files of a session, or upload, download or delete one.

    Example: strandline files ada --upload report.pdf
    """
    with say.errors_reported(), server_of(url, key_file) as server:
        name = session_named(session)
        if sum(each is not None for each in (upload, download, delete)) > 1:
            raise SetupError("use one of --upload, --download and --delete")
        if upload is not None:
            _show_upload(server.upload(name, _content(upload), upload.name), as_json=as_json)
        elif download is not None:
            path = output or Path(_name_of(server.files(name, most(limit, everything=True)), download))
            write(path, server.download(name, download), may_replace=output is not None)
            say.out().print(f"{path} is written.", markup=False, soft_wrap=True)
        elif delete is not None:
            server.delete_file(name, delete)
            say.out().print(f"{delete} is deleted.", markup=False, soft_wrap=True)
        else:
            _show(server.files(name, most(limit, everything=everything)), as_json=as_json)


def _show_upload(made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    block = f'{{"file": "{made["file_id"]}"}}'
    say.out().print(
        f"{made['file_id']} is uploaded. In the input of a run, {block} names it.", markup=False, soft_wrap=True
    )


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif not found["files"] and "damaged" not in found:
        say.err().print("The session has no files. `strandline files SESSION --upload PATH` adds one.", soft_wrap=True)
    else:
        rows.show(HEAD, [_row(each) for each in found["files"]])
        more(found)


def _row(file: dict[str, Any]) -> list[str]:
    return [file["file_id"], file["name"], file["media_type"], str(file["size"]), rows.clock_time(file["created_at"])]


def _name_of(found: dict[str, Any], file_id: str) -> str:
    """Return the name of a file, which the server has made safe; its id if that is unknown."""
    name = next((str(each["name"]) for each in found["files"] if each["file_id"] == file_id), file_id)
    return Path(name).name or file_id


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from None


def write(path: Path, data: bytes, *, may_replace: bool) -> None:
    """Write a download; without a name of the user's own it replaces nothing."""
    try:
        with open(path, "wb" if may_replace else "xb") as file:
            file.write(data)
    except FileExistsError:
        raise SetupError(f"{path} exists: name another path with --output") from None
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}") from None

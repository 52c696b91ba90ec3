"""What clients want of the agent: checked, and stored with their runs. Pure.

A run's options are in the metadata that the journal stores with it, under a key of their own that no caller sees: so
that a run which continues after a crash, at another server or in a worker has them. Every dialect whose clients may
want something reads it into `ClientOptions`, and hands them to the engine in a `Request`.
"""

import re
from typing import Any, Final

import msgspec

from strandline._agents.json_schemas import NoSchema, object_schema
from strandline._encoding import encode
from strandline._model import AnswerFormat, ClientOptions
from strandline.errors import Invalid

OF_CLIENT: Final = "client_options"
"""The key of a run's stored metadata."""
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The names of tools and formats, which models and providers must take."""
_SHOWN: Final = 60


def client_options_in(metadata: dict[str, Any]) -> ClientOptions | None:
    """Return the options that are stored with a run. Raises `Invalid` if a program has put something else there."""
    if OF_CLIENT not in metadata:
        return None
    try:
        return msgspec.convert(metadata[OF_CLIENT], ClientOptions)
    except msgspec.ValidationError as error:
        raise Invalid(f"metadata.{OF_CLIENT} is the server's own; leave it out ({error})") from None


def with_client_options(metadata: dict[str, Any], options: ClientOptions | None) -> dict[str, Any]:
    """Return the metadata of a run with these options in place of any that it has; None: with none."""
    if options is None:
        return without_client_options(metadata)
    return {**metadata, OF_CLIENT: msgspec.to_builtins(options)}


def without_client_options(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a run as its caller gave it."""
    if OF_CLIENT not in metadata:
        return metadata
    return {name: value for name, value in metadata.items() if name != OF_CLIENT}


def check_client_options(options: ClientOptions, most_bytes: int) -> None:
    """Raise `Invalid` unless a client may want this of an agent, in at most so many bytes as JSON."""
    if len(encode(options)) > most_bytes:
        raise Invalid(
            f"response_format must have at most {most_bytes} bytes as JSON (setting max_client_options_bytes)"
        )
    if options.format is not None:
        _check_format(options.format)


def _check_format(form: AnswerFormat) -> None:
    if form.name and NAME.fullmatch(form.name) is None:
        raise Invalid(f"the name of a format must be 1 to 64 of A-Z a-z 0-9 _ -, not {form.name[:_SHOWN]!a}")
    try:
        object_schema(form.json_schema)
    except NoSchema as error:
        raise Invalid(f"the schema of a format {error}") from None

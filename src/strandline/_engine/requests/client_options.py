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
from strandline._model import FORMAT_TOOL, OF_CLIENT, AnswerFormat, ClientOptions
from strandline.errors import Invalid

MOST_TOOLS: Final = 128
"""What OpenAI's own server takes."""
TOOL_NAME: Final = "[A-Za-z0-9_-]{1,64}"
"""The names of tools and formats, which models and providers must take."""
_NAME: Final = re.compile(TOOL_NAME)
_SHOWN: Final = 60


def client_options_in(metadata: dict[str, Any]) -> ClientOptions | None:
    """Return the options that are stored with a run. Raises `Invalid` if a program has put something else there."""
    if OF_CLIENT not in metadata:
        return None
    try:
        return msgspec.convert(metadata[OF_CLIENT], ClientOptions)
    except msgspec.ValidationError as error:
        raise Invalid(f"metadata.{OF_CLIENT} is the server's own; leave it out ({error})") from None


def tools_without_effect_in(stored: dict[str, Any]) -> list[str]:
    """Return the tools that a client's options give the agent, by the metadata of a run or the state of its question.

    The one that gives an answer a form does nothing else; those of the client are not executed here.
    """
    options = client_options_in(stored)
    if options is None:
        return []
    return [each.name for each in options.tools] + ([FORMAT_TOOL] if options.format is not None else [])


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
            f"the tools and the format of the answer must have at most {most_bytes} bytes as JSON, together"
            " (setting max_client_options_bytes)"
        )
    if options.format is not None:
        _check_format(options.format)
    _check_tools(options)


def _check_tools(options: ClientOptions) -> None:
    if len(options.tools) > MOST_TOOLS:
        raise Invalid(f"there must be at most {MOST_TOOLS} tools, not {len(options.tools)}")
    names = [each.name for each in options.tools]
    for name in names:
        if _NAME.fullmatch(name) is None:
            raise Invalid(f"the name of a tool must be 1 to 64 of A-Z a-z 0-9 _ -, not {name[:_SHOWN]!a}")
        if name == FORMAT_TOOL:
            raise Invalid(f"no tool can be named {FORMAT_TOOL}: by that one the agent gives its answer a form")
    if twice := next((name for at, name in enumerate(names) if name in names[:at]), None):
        raise Invalid(f"there are two tools named {twice}; each needs a name of its own")
    for each in options.tools:
        if each.json_schema.get("type", "object") != "object":
            raise Invalid(f'the parameters of tool {each.name} must be those of an object: "type" must be "object"')
    if options.must_call and options.must_call not in names:
        raise Invalid(f"there is no tool named {options.must_call[:_SHOWN]!a} that the model could have to call")
    if options.must_call == "" and not names:
        raise Invalid("a model can have to call a tool only if there is one: send tools, or leave tool_choice out")


def _check_format(form: AnswerFormat) -> None:
    if form.name and _NAME.fullmatch(form.name) is None:
        raise Invalid(f"the name of a format must be 1 to 64 of A-Z a-z 0-9 _ -, not {form.name[:_SHOWN]!a}")
    try:
        object_schema(form.json_schema)
    except NoSchema as error:
        raise Invalid(f"the schema of a format {error}") from None

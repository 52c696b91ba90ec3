"""What OpenAI's clients want of the agent, as the engine takes it.

Both protocols of OpenAI have the same parts in other places: chat completions `response_format`, responses
`text.format`, which has the fields of `json_schema` in itself; chat completions a tool's fields in `function`,
responses in the tool itself. All of this reads both.
"""

from typing import Any, Final

from strandline._model import AnswerFormat, ClientOptions, ClientTool
from strandline.errors import Invalid

_ANY_OBJECT: Final[dict[str, Any]] = {"type": "object"}


def client_options_of(
    form: AnswerFormat | None,
    tools: list[dict[str, Any]] | None,
    choice: str | dict[str, Any] | None,
    parallel: bool | None,
) -> ClientOptions | None:
    """Return what a client wants of the agent: the form of its answer, and the tools of the client as it chooses among
    them. None: nothing. Raises `Invalid`."""
    if form is None and not tools and choice in (None, "auto", "none"):
        return None
    may_call, must_call = chosen(tools_of(tools), choice)
    return ClientOptions(format=form, tools=may_call, must_call=must_call, parallel=parallel is not False)


def format_of(given: dict[str, Any] | None, there: str) -> AnswerFormat | None:
    """Return the wanted form of the answer; None: text. `there` is its place in the request. Raises `Invalid`."""
    kind = "text" if given is None else given.get("type", "text")
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return AnswerFormat(json_schema=_ANY_OBJECT)
    if kind != "json_schema":
        raise Invalid(f"The type must be text, json_object or json_schema - at `{there}.type`")
    inner = given.get("json_schema", given)
    if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
        raise Invalid(f"A JSON Schema is needed, an object in `schema` - at `{there}`")
    name, description = inner.get("name") or "", inner.get("description") or ""
    if not (isinstance(name, str) and isinstance(description, str)):
        raise Invalid(f"`name` and `description` must be texts - at `{there}`")
    return AnswerFormat(json_schema=inner["schema"], name=name, description=description)


def tools_of(given: list[dict[str, Any]] | None, there: str = "$.tools") -> tuple[ClientTool, ...]:
    """Return the tools of a client. Raises `Invalid`."""
    return tuple(_tool(each, f"{there}[{number}]") for number, each in enumerate(given or ()))


def _tool(given: dict[str, Any], there: str) -> ClientTool:
    if given.get("type") != "function":
        raise Invalid(f"A tool must be of type function: the server has no others for clients - at `{there}.type`")
    inner = given.get("function", given)
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or not isinstance(name, str):
        raise Invalid(f"A tool needs a name, a text in `name` - at `{there}`")
    description, parameters = inner.get("description") or "", inner.get("parameters") or {}
    if not isinstance(description, str) or not isinstance(parameters, dict):
        raise Invalid(f"`description` must be a text, and `parameters` an object, a JSON Schema - at `{there}`")
    return ClientTool(name=name, description=description, json_schema=parameters)


def chosen(
    tools: tuple[ClientTool, ...], choice: str | dict[str, Any] | None, there: str = "$.tool_choice"
) -> tuple[tuple[ClientTool, ...], str | None]:
    """Return the tools that the model may call, and the one that it must call: "" for any, None if it need not.

    Raises `Invalid`.
    """
    match choice:
        case None | "auto":
            return tools, None
        case "none":
            return (), None
        case "required":
            return tools, ""
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return tools, name
        case {"type": "allowed_tools", **more}:
            inner = more.get("allowed_tools", more)
            if isinstance(inner, dict) and inner.get("mode") in ("auto", "required"):
                names = {_named(each) for each in _listed(inner.get("tools"), there)}
                allowed = tuple(each for each in tools if each.name in names)
                return allowed, "" if inner["mode"] == "required" else None
    raise Invalid(f"It must be auto, none, required, a function by its name, or allowed_tools - at `{there}`")


def _listed(given: object, there: str) -> list[Any]:
    if not isinstance(given, list):
        raise Invalid(f"The allowed tools must be a list - at `{there}`")
    return given


def _named(given: object) -> str | None:
    match given:
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            return name
    return None

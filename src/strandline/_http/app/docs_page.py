"""The OpenAPI document as one page without scripts, fonts or pictures. Pure."""

import base64
import hashlib
import json
import shlex
from html import escape
from typing import Any, Final

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --mark: #2563eb; --warn: #b45309; --bad: #b91c1c; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 2rem 1rem 6rem; }
h1 { margin: 0; } h2 { margin: 2.5rem 0 .5rem; text-transform: capitalize; }
code, pre { font: .875em/1.45 ui-monospace, monospace; }
pre { background: var(--soft); padding: .75rem; border-radius: .375rem; overflow-x: auto; }
details { border: 1px solid var(--line); border-radius: .375rem; margin: .5rem 0; }
summary { padding: .5rem .75rem; cursor: pointer; display: flex; flex-wrap: wrap; gap: .25rem .75rem; }
summary > span { margin-left: auto; opacity: .75; }
summary b { min-width: 4.25rem; color: var(--mark); } summary b.DELETE { color: var(--bad); }
summary b.POST { color: var(--warn); }
details > div { padding: 0 .75rem .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
table { border-collapse: collapse; width: 100%; } td { padding: .25rem .75rem .25rem 0; vertical-align: top; }
td:first-child { white-space: nowrap; } tr + tr td { border-top: 1px solid var(--line); }
p.lead { margin-top: .25rem; opacity: .8; }
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page may use its own style, and may not be framed."""
_METHODS: Final = ("get", "post", "patch", "delete")


def page(document: dict[str, Any], root: str, url: str) -> str:
    """Return the page; `root` is the path where the server is mounted, `url` the address in the examples."""
    info, schemas = document["info"], document["components"]["schemas"]
    by_tag: dict[str, list[str]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                operation = methods[method]
                by_tag[operation["tags"][0]].append(_operation(path, method, operation, schemas, url))
    parts = [f"<h2>{escape(tag)}</h2>{''.join(operations)}" for tag, operations in by_tag.items()]
    wanted = any("security" in operation for methods in document["paths"].values() for operation in methods.values())
    keys = (
        "<p>This server requires an API key: <code>Authorization: Bearer KEY</code>, as the examples show.</p>"
        if wanted
        else ""
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p class=lead>{escape(info['description'])}</p>"
        f'<p>For programs: <a href="{escape(root)}/openapi.json">openapi.json</a> (OpenAPI 3.1).'
        " The guides have tested examples: <code>docs/</code> of the source (begin with"
        f" <code>docs/quick-start.md</code>); <code>make docs</code> builds them as a site.</p>{keys}"
        f"{''.join(parts)}<h2>events</h2>{''.join(_events(schemas))}</body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any], url: str) -> str:
    parts = [_table("Parameters", [_parameter(each) for each in operation.get("parameters", [])])]
    example, uploads = None, False
    if (body := operation.get("requestBody")) is not None:
        (kind, content), *_ = body["content"].items()
        uploads = kind != "application/json"
        schema, example = _resolved(content["schema"], schemas), content.get("example")
        needed = schema.get("required", [])
        fields = sorted(schema.get("properties", {}).items(), key=lambda field: field[0] not in needed)
        rows = [_field(name, field, schemas, name in needed) for name, field in fields]
        parts.append(_table("Body" if body["required"] else "Body (optional)", rows))
    parts.append(_table("Answers", [_answer(status, each) for status, each in operation["responses"].items()]))
    shown = _curl(
        url, path, method, operation.get("parameters", []), example, key="security" in operation, uploads=uploads
    )
    parts.append(f"<h3>Example</h3><pre>{escape(shown)}</pre>")
    return (
        f"<details><summary><b class={method.upper()}>{method.upper()}</b><code>{escape(path)}</code>"
        f"<span>{escape(operation['summary'])}</span></summary><div>{''.join(parts)}</div></details>"
    )


def _table(title: str, rows: list[str]) -> str:
    return f"<h3>{escape(title)}</h3><table>{''.join(rows)}</table>" if rows else ""


def _row(name: str, kind: str, text: str) -> str:
    return f"<tr><td><code>{escape(name)}</code><td>{escape(kind)}<td>{_marked(text)}</tr>"


def _parameter(parameter: dict[str, Any]) -> str:
    kind = f"{parameter['in']}, {parameter['schema'].get('type', '')}"
    return _row(parameter["name"], kind, parameter["description"])


def _field(name: str, field: dict[str, Any], schemas: dict[str, Any], needed: bool) -> str:
    text = field.get("description", "")
    if "default" in field and field["default"] is not None:
        text += f" (default `{json.dumps(field['default'])}`)"
    return _row(name, _kind(field, schemas) + (", required" if needed else ""), text)


def _answer(status: str, answer: dict[str, Any]) -> str:
    content = answer.get("content", {})
    kinds = [_named(kind, each.get("schema", {})) for kind, each in content.items()]
    return _row(status, ", ".join(kinds), answer["description"])


def _named(kind: str, schema: dict[str, Any]) -> str:
    """Return the content of an answer, in a word."""
    named = [str(each["$ref"]).rpartition("/")[2] for each in (schema, *schema.get("anyOf", ())) if "$ref" in each]
    return " or ".join(named) or ("text" if kind == "text/plain" else "events")


def _events(schemas: dict[str, Any]) -> list[str]:
    """Return all types of events."""
    unions = [schema["discriminator"]["mapping"] for schema in schemas.values() if "discriminator" in schema]
    parts = []
    for kind, reference in {kind: each for union in unions for kind, each in union.items()}.items():
        schema = _resolved({"$ref": reference}, schemas)
        fields = {name: field for name, field in schema["properties"].items() if name != "type"}
        rows = [_field(name, field, schemas, False) for name, field in fields.items()]
        parts.append(
            f"<details><summary><code>{escape(kind)}</code><span>{_marked(_first(schema['description']))}</span>"
            f"</summary><div>{_table('Data', rows)}</div></details>"
        )
    return parts


def _first(text: str) -> str:
    """Return the first sentence."""
    return f"{text.partition('. ')[0].rstrip('.')}."


def _kind(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    schema = _resolved(schema, schemas)
    if "anyOf" in schema:
        return " or ".join(_kind(each, schemas) for each in schema["anyOf"] if each != {"type": "null"})
    if "enum" in schema:
        return " | ".join(str(each) for each in schema["enum"] if each is not None)
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'], schemas)}"
    return str(schema.get("type", "any"))


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    return {
        **schemas[schema["$ref"].rpartition("/")[2]],
        **{key: each for key, each in schema.items() if key != "$ref"},
    }


def _curl(
    url: str,
    path: str,
    method: str,
    parameters: list[dict[str, Any]],
    body: dict[str, Any] | None,
    *,
    key: bool,
    uploads: bool,
) -> str:
    """Return an example command. Values that only the reader knows are in capitals, such as `RUN_ID`."""
    shown = ' -H "Authorization: Bearer $KEY"' if key else ""
    for each in parameters:
        name, example = each["name"], each.get("example")
        if each["in"] == "path":
            path = path.replace(f"{{{name}}}", example or name.upper())
        elif example is not None and each["in"] == "header":
            shown += f" -H '{name}: {example}'"
        elif example is not None:
            path += f"?{name}={example}"
    if uploads:
        return f"curl{shown} {shlex.quote(f'{url}{path}?name=report.pdf')} --data-binary @report.pdf"
    option = "" if method == "get" or (body and method == "post") else f" -X {method.upper()}"
    data = "" if not body else f" \\\n  -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    return f"curl{option}{shown} {shlex.quote(url + path)}{data}"


def _marked(text: str) -> str:
    """Return text as HTML, with backticks as code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))

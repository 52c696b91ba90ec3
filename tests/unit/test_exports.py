"""The public modules: what they export is whole, typed with public types, and all that pages and examples import."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NewType, get_args, get_origin, get_type_hints

import pytest
from typing_extensions import TypedDict

import strandline
import strandline.client
import strandline.testing

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "src"
PUBLIC: Final = (
    "strandline",
    "strandline.client",
    "strandline.errors",
    "strandline.events",
    "strandline.providers",
    "strandline.testing",
    "strandline.testing.probe",
    "strandline.tools",
)
DEPRECATED: Final = {"strandline.client": {"Wishes"}, "strandline.testing": {"JournalContract"}}
"""Names that can still be imported, with a warning, and are exported no more."""
SHOWN: Final = sorted(
    [
        *(path for path in ROOT.glob("docs/**/*.md") if path.parent.name != "adr"),
        ROOT / "README.md",
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "examples").rglob("*.py"),
        *(ROOT / "container").rglob("*.md"),
        *(path for path in (ROOT / "deploy").rglob("*") if path.suffix in {".md", ".yaml", ".yml", ".service"}),
    ]
)
"""What users read and copy."""


def source_of(module: str) -> Path:
    place = SOURCE.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def bound(nodes: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements define in their module, or import into it from another of ours."""
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("strandline"):
                yield from (each.asname or each.name for each in names)
            case ast.If(body=body, orelse=other):
                yield from bound(body)
                yield from bound(other)
            case _:
                pass


def is_ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("strandline")


def named(annotation: Any) -> Iterator[Any]:
    """Yield the types of ours that an annotation names, at any depth."""
    if isinstance(annotation, type | NewType) and is_ours(annotation):
        yield annotation
    if is_ours(origin := get_origin(annotation)):
        yield origin
    for each in get_args(annotation):
        for part in each if isinstance(each, list | tuple) else [each]:
            yield from named(part)


def annotations(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield where a class or function names a type, and what it names there. What begins with `_` is not public."""
    if inspect.isfunction(thing):
        yield from ((f"{thing.__qualname__}: {name}", hint) for name, hint in _hints(thing))
    elif isinstance(thing, NewType):
        yield f"{thing.__name__}", thing.__supertype__
    elif isinstance(thing, type):
        yield from ((f"{thing.__qualname__}.{name}", hint) for name, hint in _hints(thing))
        for name, member in inspect.getmembers(thing):
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if inspect.isfunction(function) and is_ours(function) and (name.startswith("__") or name[0] != "_"):
                yield from ((f"{thing.__qualname__}.{name}: {each}", hint) for each, hint in _hints(function))


def _hints(thing: Any) -> list[tuple[str, Any]]:
    space = {**vars(sys.modules[thing.__module__]), "Model": object}  # (of Strands, imported for type checkers alone)
    return [(name, hint) for name, hint in get_type_hints(thing, space).items() if not name.startswith("_")]


def exported() -> dict[str, Any]:
    modules = [importlib.import_module(each) for each in PUBLIC]
    return {f"{module.__name__}.{name}": getattr(module, name) for module in modules for name in module.__all__}


def unexported(things: dict[str, Any]) -> dict[str, str]:
    """Return the types of ours that are reached from things and are none of them, and where each is named."""
    known, found = [*things.values()], {}
    todo = list(known)
    while todo:
        for where, annotation in annotations(todo.pop()):
            for kind in named(annotation):
                if not any(kind is each for each in known):
                    known.append(kind)
                    todo.append(kind)
                    found[kind.__name__] = where
    return found


def test_every_type_that_a_public_name_takes_or_returns_is_public() -> None:
    assert unexported(exported()) == {}


class _Inner:
    pass


class _Outer(TypedDict):
    inner: list[_Inner | None]


def test_a_type_that_is_not_public_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(outer: dict[str, _Outer], _own: _Inner) -> None: ...

    for each in (_Inner, _Outer, function):
        monkeypatch.setattr(each, "__module__", "strandline._x")
    monkeypatch.setitem(sys.modules, "strandline._x", sys.modules[__name__])
    assert unexported({"function": function}).keys() == {"_Inner", "_Outer"}


@pytest.mark.parametrize("module", PUBLIC)
def test_what_a_module_exports_is_sorted_there_and_all_that_it_has(module: str) -> None:
    imported = importlib.import_module(module)
    names = list(imported.__all__)
    assert names == sorted(set(names))
    assert all(getattr(imported, name) is not None for name in names)
    assert [name for name in names if name.startswith("_")] == (["__version__"] if module == "strandline" else [])
    source = source_of(module)
    has = {name for name in bound(ast.parse(source.read_text()).body) if not name.startswith("_")}
    if source.name != "__init__.py":  # (what it imports for itself is found elsewhere)
        has = {name for name in has if getattr(getattr(imported, name), "__module__", module) == module}
    assert has - set(names) == DEPRECATED.get(module, set())
    assert set(names) <= set(dir(imported))


def test_every_other_module_says_that_it_is_private() -> None:
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if not any(part.startswith("_") and part not in {"__init__", "__main__"} for part in parts):
            module = ".".join(part for part in parts if part != "__init__")
            assert module in (*PUBLIC, "strandline.__main__"), f"{module} is public or says that it is not"


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [("strandline.client", "Wishes", "RunOptions"), ("strandline.testing", "JournalContract", "private")],
)
def test_a_deprecated_name_is_there_and_warns(module: str, name: str, instead: str) -> None:
    imported = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=instead) as warned:
        found = getattr(imported, name)
    assert warned[0].filename == __file__, "it names the line that asks for it"
    assert found is not None
    assert name not in imported.__all__
    if name == "Wishes":
        assert found is strandline.client.RunOptions


@pytest.mark.parametrize("module", ["strandline", "strandline.client", "strandline.testing"])
def test_a_name_that_is_not_there_is_an_error(module: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = importlib.import_module(module).no_such_name


def test_public_modules_are_attributes_of_the_package_as_type_checkers_take_them_for() -> None:
    code = "import strandline; print(strandline.errors.NotFound, strandline.client.RunOptions, strandline.testing.Gate)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert {*PUBLIC} - {"strandline", "strandline.testing.probe"} <= {f"strandline.{name}" for name in dir(strandline)}


def test_everything_for_tests_is_on_the_page_of_the_library() -> None:
    section = (ROOT / "docs/library.md").read_text().partition("## Test your agent")[2]
    assert [name for name in strandline.testing.__all__ if not re.search(rf"\b{name}\b", section)] == []


# -- what pages and examples import ---------------------------------------------------------------------


def imports(code: str) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for each import from Strandline, and each attribute of it that code names."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "strandline":
                yield from ((module, each.name) for each in names)
            case ast.Import(names=names):
                yield from ((each.name, "") for each in names if each.name.split(".")[0] == "strandline")
            case ast.Attribute(value=ast.Name(id="strandline"), attr=name):
                yield "strandline", name
            case _:
                pass


def code_of(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [text] if path.suffix == ".py" else re.findall(r"(?ms)^```python\n(.*?)^```", text)


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_users_read_names_public_parts_only(path: Path) -> None:
    assert (
        re.findall(r"strandline(?:\.\w+)*\._\w+", path.read_text(encoding="utf-8").replace("strandline.__", "")) == []
    )
    for code in code_of(path):
        for module, name in imports(code):
            if name and f"{module}.{name}" not in PUBLIC:
                assert module in PUBLIC, f"{path.name} imports {module}"
                assert name in importlib.import_module(module).__all__, f"{path.name} imports {module}.{name}"


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import strandline;"
        " print(sorted(m for m in set(sys.modules) - before if m.split('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['strandline']"


def test_the_facade_has_what_the_engine_promises_and_no_more() -> None:
    facade = {name for name in vars(strandline.Service) if not name.startswith("_")}
    assert facade == {
        "submit", "run", "wait", "cancel", "move", "edit", "runs", "session", "sessions", "history", "cancel_session",
        "pause", "resume", "delete", "health", "set_options", "fork", "tree", "upload", "files", "file", "delete_file",
        "runs_of", "events", "again", "restore", "open_tools", "resolve", "history_page", "why", "export",
        "create_schedule", "schedule", "schedules",
        "change_schedule", "delete_schedule", "run_schedule",
        "changes", "webhooks", "resend",
        "test_webhook",
    }  # fmt: skip
    assert all(isinstance(vars(strandline.Service)[name], types.FunctionType) for name in facade)
    page = (ROOT / "docs/library.md").read_text()
    assert [name for name in sorted(facade) if not re.search(rf"\b{name}\(", page)] == []

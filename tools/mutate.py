"""Change the code in one place at a time, and see which change no test notices (`make mutate`).

mutmut makes the changes and runs, for each, the tests that run the changed function. This module chooses: which modules
by default, and which tests guard them (`PARTS`). It works on a copy in `build/mutate`, one folder for each part, and
writes `report.md` there with every survivor, to be read. docs/mutation.md says what came of it.

It knows mutmut's commands, its settings in `setup.cfg`, and the function that names the mutants of a file.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = Path("src/strandline")
WORK: Final = Path("build/mutate")
STATUSES: Final = ("killed", "caught by type check", "timeout", "survived", "no tests")
"""What becomes of a mutant, in mutmut's words; any other one is counted as a survivor."""
NOT_TESTED: Final = "not checked"
TO_READ: Final = ("survived", "no tests", "suspicious", "segfault", "skipped")
TYPES: Final = (
    "--config-file=",
    "--strict",
    "--enable-error-code=possibly-undefined",
    "--explicit-package-bases",
    "--ignore-missing-imports",
    "--follow-imports=silent",
    "--no-warn-unused-ignores",
)
"""mypy is as strict as in `make check`, except about the comments in mutmut's own code, and constant conditions."""
DECIDING: Final = (
    "table",
    "accepting",
    "changing",
    "owning",
    "transitions",
    "rules",
    "live",
    "deadlines",
    "state",
    "changes",
)
"""The modules of the journal that decide."""
UNITS: Final = (
    "admission_policies",
    "background",
    "claims_and_commits",
    "commits",
    "commits_ceding",
    "completion",
    "control_cancel",
    "control_pause",
    "estimates",
    "failures",
    "found_by_simulation",
    "holds",
    "idempotency",
    "input_requests",
    "reasons",
    "recovery",
    "recovery_of_gained",
    "refusals",
    "run_builder",
    "service",
    "service_drain",
    "service_faulty_journal",
    "service_input_time",
    "service_timeouts",
    "session_queues",
    "strands_hooks",
    "traces",
)
"""What of `tests/unit` runs the engine."""


NAMES: Final = """
import sys
from pathlib import Path
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.format_utils import get_mutant_name
for file in map(Path, sys.argv[1:]):
    for name in mutate_file_contents(str(file), file.read_text()).mutant_names:
        print(get_mutant_name(file, name))
"""
"""Prints the name of each mutant of these files."""


@dataclass(frozen=True)
class Part:
    """Modules (paths below the package) that the same tests guard."""

    name: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]


PARTS: Final = (
    Part("history", ("_history",), ("tests/unit/test_history.py", "tests/properties/test_close.py")),
    Part(
        "journal",
        tuple(f"_journal/{each}.py" for each in DECIDING),
        (
            "tests/unit/test_commits_ceding.py",
            "tests/unit/test_deadlines.py",
            "tests/unit/test_rules.py",
            "tests/unit/test_table.py",
            "tests/contract/test_memory.py",
            "tests/properties/test_session_table.py",
        ),
    ),
    Part(
        "engine",
        (
            "_engine/queues",
            "_engine/execution/completion.py",
            "_engine/execution/claims.py",
            "_engine/requests/run_builder.py",
            "_engine/admission/refusals.py",
        ),
        tuple(f"tests/unit/test_{each}.py" for each in UNITS),
    ),
)
SELECTED: Final = "not machine_finds and not ten_thousand and not hide_no_old_one"
"""No tests of a judge, which would fail by the very mutant that it shall find, and none that takes half of the time."""
OTHERS: Final = Part("others", (), ("tests/unit",))
"""What guards a module of no part."""


def files(modules: Iterable[str]) -> list[str]:
    """Return the files of modules, each a path below the package or from the repository; raise ValueError if none."""
    found: dict[str, None] = {}
    for module in modules:
        path = ROOT / PACKAGE / module.removeprefix(f"{PACKAGE.as_posix()}/")
        inside = sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []
        if not inside:
            raise ValueError(f"{module} is no module below {PACKAGE}; try _history or _journal/rules.py")
        found.update((each.relative_to(ROOT).as_posix(), None) for each in inside)
    return list(found)


def chosen(modules: Sequence[str], tests: Sequence[str]) -> Iterator[Part]:
    """Yield the parts to run: those of `PARTS` that the modules are in, with their files and tests, then the others.

    `tests` guard all of them instead, if there are any.
    """
    wanted = files(modules or [module for part in PARTS for module in part.modules])
    for part in PARTS:
        inside = [each for each in files(part.modules) if each in wanted]
        wanted = [each for each in wanted if each not in inside]
        if inside:
            yield replace(part, modules=tuple(inside), tests=tuple(tests) or part.tests)
    if wanted:
        yield replace(OTHERS, modules=tuple(wanted), tests=tuple(tests) or OTHERS.tests)


def configuration(part: Part, copied: Iterable[str]) -> str:
    """Return mutmut's settings for a part."""
    lists: Mapping[str, Iterable[str]] = {
        "source_paths": ["src"],
        "only_mutate": part.modules,
        "also_copy": copied,
        "pytest_add_cli_args_test_selection": part.tests,
        # One verdict per mutant, without luck.
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "--hypothesis-profile=mutation", "-k", SELECTED],
        "type_check_command": [sys.executable, "-m", "mypy", "--output=json", *TYPES, *part.modules],
    }
    lines = ["[mutmut]", "use_git_change_detection = false", "timeout_multiplier = 5.0", "timeout_constant = 6.0"]
    for name, values in lists.items():
        lines += [f"{name} =", *(f"    {value}" for value in values)]
    return "\n".join(lines) + "\n"


def prepare(part: Part, *, again: bool) -> Path:
    """Return the folder of a part, with links to all that is copied from; an older one is removed unless `again`."""
    folder = ROOT / WORK / part.name
    if not again:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    copied = sorted({line.partition("/")[0] for line in listed.splitlines()})
    for name in copied:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(ROOT / name)
    (folder / "setup.cfg").write_text(configuration(part, [name for name in copied if name not in ("src", "tests")]))
    return folder


def mutmut(folder: Path, *arguments: str) -> str:
    """Return what a command of mutmut prints."""
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def run(folder: Path, processes: int, mutants: Sequence[str] = ()) -> None:
    """Test mutants: those that are named, or all that have no verdict yet; mutmut shows its progress."""
    command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", str(processes), *mutants]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("STRANDLINE_")}
    environ["MYPYPATH"] = "src"
    environ["MYPY_CACHE_DIR"] = str(ROOT / WORK / "types")  # all parts share what is read of other packages
    if subprocess.run(command, cwd=folder, env=environ, check=False).returncode != 0:
        raise SystemExit(f"mutmut failed; its settings and files are in {folder}")


def sample(names: Sequence[str], most: int, seed: int) -> list[str]:
    """Return so many of the names, in their order: the same ones for a seed, as long as the names are the same."""
    picked = set(random.Random(seed).sample(names, min(most, len(names))))
    return [name for name in names if name in picked]


def names_of(folder: Path, part: Part) -> list[str]:
    """Return the name of each mutant of a part."""
    command = [sys.executable, "-c", NAMES, *part.modules]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.split()


def verdicts(lines: str) -> dict[str, str]:
    """Return the status of each tested mutant, by name, from the lines of `mutmut results --all`."""
    pairs = (line.strip().rpartition(": ") for line in lines.splitlines() if ": " in line)
    return {name: status for name, _, status in pairs if status != NOT_TESTED}


def listed(folder: Path) -> dict[str, str]:
    """Return the status of each tested mutant of a part."""
    return verdicts(mutmut(folder, "results", "--all", "true"))


def table(found: Mapping[str, str]) -> str:
    """Return how many mutants of each module came to which end, as a table in Markdown."""
    rows: dict[str, Counter[str]] = {}
    for name, status in found.items():
        module = name.rpartition(".")[0].removeprefix("strandline.")
        rows.setdefault(module, Counter())[status if status in STATUSES else "survived"] += 1
    rows["all"] = sum(rows.values(), Counter())
    lines = [f"| module | mutants | {' | '.join(STATUSES)} |", f"|---|{'---:|' * (len(STATUSES) + 1)}"]
    for module, counts in rows.items():
        lines.append(f"| {module} | {counts.total()} | {' | '.join(str(counts[status]) for status in STATUSES)} |")
    return "\n".join(lines)


def report(part: Part, folder: Path, found: Mapping[str, str]) -> Path:
    """Write down the counts of a part and the change of each mutant that is to be read; return the file."""
    file = folder / "report.md"
    text = [f"# {part.name}", table(found)]
    for name, status in found.items():
        if status in TO_READ:
            shown = mutmut(folder, "show", name).partition("\n")[2].strip()
            text.append(f"## {name}\n{status}\n```diff\n{shown}\n```")
    file.write_text("\n\n".join(text) + "\n")
    return file


def say(text: str) -> None:
    """Print at once: mutmut prints below it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the requested parts one after another, and say where their reports are."""
    parser = argparse.ArgumentParser(prog="make mutate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help="_history, _journal/rules.py, ... (default: PARTS)"
    )
    parser.add_argument("--tests", nargs="+", default=(), metavar="PATH", help="the tests that guard these modules")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="how many mutants at a time (default: 1)")
    parser.add_argument("--sample", type=int, metavar="N", help="test so many mutants of each part, drawn by the seed")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which ones (default: 1)")
    parser.add_argument("--again", action="store_true", help="keep verdicts; test changed functions and survivors only")
    options = parser.parse_args()
    try:
        parts = list(chosen(options.modules, options.tests))
    except ValueError as error:
        raise SystemExit(str(error)) from None
    for part in parts:
        say(f"==> {part.name}: {len(part.modules)} modules, {' '.join(part.tests)}")
        start = time.monotonic()
        folder = prepare(part, again=options.again)
        known = listed(folder) if options.again else {}
        drawn = sample(names_of(folder, part), options.sample, options.seed) if options.sample else None
        if drawn is None:
            run(folder, options.processes)
            left = [name for name, status in known.items() if status in TO_READ]
        else:
            left = [name for name in drawn if known.get(name, NOT_TESTED) in (NOT_TESTED, *TO_READ)]
        if left:
            run(folder, options.processes, left)
        found = listed(folder)
        if drawn is not None:
            found = {name: found[name] for name in drawn}
        file = report(part, folder, found)
        say(f"\n{table(found)}\n\nin {(time.monotonic() - start) / 60:.0f} minutes; read {file.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()

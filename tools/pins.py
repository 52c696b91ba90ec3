"""The exact versions in `constraints.txt`, and the hashes of all files that each of them may come in.

`python tools/pins.py show GROUP...` prints the lines of groups, as a requirements file that pip checks every file
against (`pip install --require-hashes -r`). `versions` prints all of them without hashes, for `pip install -c`. `lock`
asks the registry, through uv, for the hashes of whatever versions the file names, and writes them down.

A group has everything that its packages need: pip, once it checks hashes, takes nothing that is not named. Runs on the
standard library alone; `lock` needs uv.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).resolve().parent.parent / "constraints.txt"
GROUP: Final = re.compile(r"^# -- (\w+): .*$")
PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)")
OLDEST: Final = "3.11.7"
"""Hashes are locked for this version of Python and newer ones; a package may drop older patch versions."""


def groups(text: str) -> dict[str, list[str]]:
    """Return the pins of each group, in order, each with its hashes and as many lines as it has."""
    found: dict[str, list[str]] = {}
    pins: list[str] = []
    for line in text.splitlines():
        if heading := GROUP.match(line):
            pins = found.setdefault(heading[1], [])
        elif PIN.match(line):
            pins.append(line)
        elif line.startswith(" ") and pins:
            pins[-1] += f"\n{line}"
    return found


def versions(pins: list[str]) -> list[str]:
    """Return pins without their hashes."""
    return [pin.split(" \\\n")[0] for pin in pins]


def lock(text: str) -> str:
    """Return the file with the hashes of all files of each version, as uv finds them in the registry that it has."""
    options = (
        "--no-deps",
        "--universal",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--no-config",
        "--quiet",
    )
    heads = re.split(r"(?m)^(?=# -- )", text)
    made = [heads[0]]
    for part in heads[1:]:
        heading = part.partition("\n")[0]
        pins = "\n".join(versions(groups(part)[GROUP.match(heading)[1]]))  # type: ignore[index]
        command = ["uv", "pip", "compile", *options, "--python-version", OLDEST, "-"]
        done = subprocess.run(command, input=pins, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"uv could not resolve the hashes:\n{done.stderr}")
        made.append(f"{heading}\n{done.stdout.strip()}\n\n")
    return "".join(made).rstrip("\n") + "\n"


def main(arguments: list[str]) -> None:
    """Print or write the requested lines."""
    text = FILE.read_text(encoding="utf-8")
    known = groups(text)
    match arguments:
        case ["show", *names] if names and all(name in known for name in names):
            sys.stdout.write("\n".join(dict.fromkeys(pin for name in names for pin in known[name])) + "\n")
        case ["versions"]:
            every = dict.fromkeys(line for pins in known.values() for line in versions(pins))
            sys.stdout.write("\n".join(every) + "\n")
        case ["lock"]:
            FILE.write_text(lock(text), encoding="utf-8")
        case _:
            raise SystemExit(f"usage: pins.py show GROUP... | versions | lock   (groups: {', '.join(known)})")


if __name__ == "__main__":
    main(sys.argv[1:])

"""What a folder under `examples/` shows: its commands, and the lines that make its model a real one.

A test takes what it does from the README beside the code, so that what people copy is what was tried.
"""

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from acceptance.server import Server

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
SCRIPTED: Final = "from script import model\n"


@dataclass(frozen=True, slots=True)
class Example:
    """One folder of `examples/`."""

    folder: Path

    @property
    def readme(self) -> str:
        """Its page."""
        return (self.folder / "README.md").read_text()

    def blocks(self, language: str) -> list[str]:
        """Return the code blocks of its page, without their fences."""
        return re.findall(rf"^```{language}\n(.*?)^```", self.readme, re.MULTILINE | re.DOTALL)

    @property
    def serve(self) -> list[str]:
        """The arguments of the `strandline serve` that its page shows."""
        command = next(line for block in self.blocks("sh") for line in block.splitlines() if "strandline serve" in line)
        return shlex.split(command.split("strandline serve", 1)[1], comments=True)

    @property
    def chat_bodies(self) -> list[dict[str, Any]]:
        """The bodies that its page posts to `/chat`, in order."""
        bodies = re.findall(r"/chat\s+-d '(.*?)'", self.readme, re.DOTALL)
        return [json.loads(body) for body in bodies]

    def copy(self, to: Path) -> Path:
        """Copy what a clone has of it, so that nothing is written into the checkout; return the new folder."""
        shutil.copytree(self.folder, to, ignore=shutil.ignore_patterns("__pycache__", ".strandline", "*.pyc"))
        return to


def example(name: str) -> Example:
    """Return the folder of that name."""
    return Example(EXAMPLES / name)


def answers(server: Server, shown: Example) -> list[str]:
    """Ask what the page asks, one after the other, and return what was answered; all must have succeeded."""
    given = [server.client.post("/chat", json=body).raise_for_status().json() for body in shown.chat_bodies]
    assert {answer["status"] for answer in given} == {"success"}, given
    return [answer["response"] for answer in given]


def with_real_model(folder: Path, shown: Example, module: str = "agent.py") -> None:
    """Do to a copy what its page says about a real model."""
    file = folder / module
    text = file.read_text()
    assert text.count(SCRIPTED) == 1, f"{file} does not have the line that {shown.folder.name}/README.md names"
    lines = next(block for block in shown.blocks("python") if "\nmodel = " in block)
    file.write_text(text.replace(SCRIPTED, lines))
    (folder / "script.py").unlink()

"""The page of targets is true: each of its examples is served as the command beside it says, and answers."""

import re
import shlex
from pathlib import Path

import pytest

from engine_support import texts
from strandline._agents.load import load_target
from strandline._model import RunStatus
from target_support import ask, history, run, serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/targets.md").read_text()
FILES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^strandline serve (.+)$", PAGE, re.MULTILINE)
ANSWERS = {
    "nodes.py:make_graph": "From plan:",
    "nodes.py:make_swarm": "User Request: hello",
    "function.py:answer": "Question 1 of s, after 0 messages: hello",
}


@pytest.fixture
def _folder(own_folder: Path) -> None:
    for name, text in FILES.items():
        (own_folder / name).write_text(text)


def test_every_python_block_is_a_file_and_every_file_but_the_model_is_served() -> None:
    assert PAGE.count("```python\n") == len(FILES)
    assert {command.split()[0].partition(":")[0] for command in COMMANDS} == FILES.keys() - {"mymodel.py"}


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize("command", COMMANDS)
def test_what_the_page_shows_can_be_served_and_answers(command: str, tmp_path: Path) -> None:
    async def main() -> None:
        target, *flags = shlex.split(command)
        served = load_target(
            target, history=dict(zip(flags[::2], flags[1::2], strict=True)).get("--history", "journal")
        )
        options = {"max_running": 1, "max_agents": 0} if served.singleton else {}
        async with serving(served, tmp_path / "work", **options) as service:  # type: ignore[arg-type]
            outcome = await ask(service, "hello")
            assert outcome.status is RunStatus.SUCCEEDED, outcome
            assert ANSWERS.get(target, "You asked: hello") in outcome.output
            if not served.self_managed:
                assert texts(await history(service))[0] == "hello"

    run(main)


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert target.startswith("http") or (ROOT / "docs" / target).exists(), target


def test_the_table_has_a_cell_for_every_kind() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert len(rows) > 8
    assert {row.count("|") for row in rows} == {7}

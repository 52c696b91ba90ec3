"""`docs/a2a.md`: its program with Strands' `A2AAgent`."""

import subprocess
from pathlib import Path

from acceptance.server import DEADLINE_S, environment, serving
from client_packages import python_client
from docs.page_run import init
from docs.pages import blocks

PAGE = "a2a.md"


def test_its_program_asks_by_strands(tmp_path: Path) -> None:
    (program,) = blocks(PAGE, "python")
    python, _ = python_client("a2a_0_3")
    with serving(*init(tmp_path), folder=tmp_path) as server:
        script = tmp_path / "page.py"
        script.write_text(program.replace("http://127.0.0.1:8080", server.url))
        done = subprocess.run(
            [python, str(script)],
            env=environment({}),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert (done.returncode, done.stdout.rstrip("\n")) == (
            0,
            "add returned 5. That was message 1 of this session.",
        ), done.stderr

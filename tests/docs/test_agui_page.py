"""`docs/agui.md`: its program with AG-UI's own client."""

import subprocess
from pathlib import Path

from acceptance.server import DEADLINE_S, environment, serving
from client_packages import npm_clients
from docs.page_run import init
from docs.pages import blocks

PAGE = "agui.md"


def test_its_program_prints_what_it_shows_by_the_official_client(tmp_path: Path) -> None:
    program, answer, tools = blocks(PAGE, "js")
    shown, shown_by_tools = blocks(PAGE, "text")
    node, installed = npm_clients()
    with serving(*init(tmp_path), folder=tmp_path) as server:
        for name, content, prints in (
            ("page.mjs", program, shown),
            ("answer.mjs", f"async function answer(agent, interrupt) {{ {answer} }}", ""),
            ("tools.mjs", tools, shown_by_tools),
        ):
            script = installed / f"{tmp_path.name}-{name}"  # (where its imports are found)
            script.write_text(content.replace("http://127.0.0.1:8080", server.url))
            try:
                done = subprocess.run(
                    [node, str(script)],
                    env=environment({}),
                    capture_output=True,
                    text=True,
                    timeout=DEADLINE_S,
                    check=True,
                )
            finally:
                script.unlink()
            assert done.stdout == prints

"""examples/mcp: one real MCP server for all sessions, which dies and is there again."""

import inspect
import os
import re
import signal
from pathlib import Path

from acceptance.server import Server, serving, until
from examples_shown import EXAMPLES, answers, example

SHOWN = example("mcp")
DOCUMENTED = (EXAMPLES.parent / "docs" / "agents.md").read_text().split("## MCP servers")[1]


def shops(server: Server) -> list[int]:
    """Return the ids of the server's own processes of `shop.py`."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == server.pid and b"shop.py" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except OSError:
            continue  # it has ended meanwhile
    return found


def test_all_sessions_ask_one_server_and_a_new_one_is_started_when_it_dies(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "mcp")
    with serving(*SHOWN.serve, folder=folder, journal=None) as server:
        assert answers(server, SHOWN) == ["12 of rope", "5 of rope put aside", "7 of rope"]
        assert server.chat("keep 9 rope")["response"] == "Only 7 of rope are there."
        (shop,) = shops(server)
        os.kill(shop, signal.SIGKILL)
        until(lambda: shops(server) != [shop], "the shop is gone")
        reply = server.chat("how many rope?")["response"]
        if reply != "12 of rope":  # the end of the server was not noticed before the call was on its way
            assert reply.endswith("The server is gone. What it did of this call is unknown.")
            reply = server.chat("how many rope?")["response"]
        assert reply == "12 of rope", "a new server has a new stock"
        assert server.chat("how many tent?", "bob")["response"] == "0 of tent"
        assert len(shops(server)) == 1
        server.terminate()
        assert server.ended() == 0


def test_the_client_is_the_one_that_the_documentation_shows() -> None:
    def plain(code: str) -> str:
        code = re.sub(r'^\s*"""(.*?)"""\n', "", code, flags=re.MULTILINE | re.DOTALL)
        code = re.sub(r": (Any|int)\b| -> \w+(?=:)", "", code)
        return inspect.cleandoc(re.sub(r"\n\s*\n", "\n", code))

    ours = (SHOWN.folder / "reconnecting.py").read_text()
    shown = next(block for block in re.findall(r"```python\n(.*?)```", DOCUMENTED, re.DOTALL) if "class " in block)
    assert plain(ours[ours.index("class ") :]) == plain(shown[shown.index("class ") :])

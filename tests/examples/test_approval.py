"""examples/approval: small sums are paid at once, large ones when a person has said so, and each of them once."""

import re
import subprocess
import sys
from pathlib import Path

from acceptance.server import Server, serving, tool_results
from examples_shown import example, with_real_model
from fakes.provider import Provider, ToolCall

SHOWN = example("approval")
SMALL, LARGE = re.findall(r"^python desk\.py (.*?)\s*(?:#.*)?$", SHOWN.readme, re.MULTILINE)


def paid(folder: Path) -> str:
    return "".join(file.read_text() for file in (folder / ".strandline" / "workspace").rglob("refunds.csv"))


def at_the_desk(server: Server, folder: Path, message: str, typed: str = "") -> str:
    """Run the script of the example against a server; return what it has printed."""
    desk = folder / "desk.py"
    desk.write_text(re.sub(r"http://127\.0\.0\.1:\d+", server.url, desk.read_text()))
    done = subprocess.run(
        [sys.executable, str(desk), *message.split()],
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_the_desk_gets_a_question_before_much_is_paid(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "approval")
    with serving(*SHOWN.serve, folder=folder, journal=None) as server:
        assert at_the_desk(server, folder, SMALL) == "Paid 20 euros back for order A7.\n"
        shown = at_the_desk(server, folder, LARGE, "yes\n")
        assert shown.startswith('refund: {"order": "B2", "amount": 120.0}\n')
        assert shown.endswith("Paid 120 euros back for order B2.\n")
        assert at_the_desk(server, folder, LARGE, "too much\n").endswith("Nothing was paid.\n")
        assert paid(folder) == "A7,20\nB2,120\n"


def test_a_server_that_is_killed_meanwhile_pays_once(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "approval")
    with serving(*SHOWN.serve, folder=folder, journal=None) as server:
        run = server.client.post("/chat", json={"session_id": "desk", "message": LARGE}).json()
        assert run["status"] == "needs_input"
        server.kill()
        server.start()
        (request,) = server.client.get("/v1/sessions/desk").json()["input_requests"]
        answers = {"session_id": "desk", "responses": [{"id": request["id"], "response": "yes"}]}
        assert server.client.post("/chat", json=answers).json()["response"] == "Paid 120 euros back for order B2."
        assert server.client.post("/chat", json=answers).status_code == 409
        assert paid(folder) == "B2,120\n"


def test_the_lines_for_a_real_model_are_all_that_it_takes(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "approval")
    with_real_model(folder, SHOWN)
    with Provider() as provider:
        provider.then([ToolCall("refund", {"order": "B2", "amount": 120})], "It is paid.")
        variables = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": provider.url}
        with serving(*SHOWN.serve, folder=folder, journal=None, variables=variables) as server:
            assert at_the_desk(server, folder, "give B2 its 120 euros back", "yes\n").endswith("It is paid.\n")
            assert tool_results(server.history("desk")) == ["Paid 120 euros back for order B2."]

"""examples/langgraph: a real graph behind a session, whose state and conversation outlive the server."""

from pathlib import Path

from acceptance.server import serving, texts
from examples_shown import answers, example

SHOWN = example("langgraph")
ORDER = "Order 17 left the warehouse on Monday, and comes on Thursday."


def test_a_graph_continues_with_the_sessions_state_and_conversation_even_after_a_restart(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "langgraph")
    with serving(*SHOWN.serve, folder=folder, journal=None) as server:
        assert answers(server, SHOWN) == [f"{ORDER} (question 1)", f"{ORDER} (question 2)"]
        assert server.chat("And when?", "somebody-else")["response"] == "Which order do you mean? (question 1)"
        server.kill()
        server.start()
        assert server.chat("Really?")["response"] == f"{ORDER} (question 3)"
        assert texts(server.history(), "user") == ["Where is order 17?", "And when does it come?", "Really?"]

"""examples/graph: the nodes that a question needs, and no others; the run shows which one executes."""

from pathlib import Path

from acceptance.server import DEADLINE_S, serving, texts, until
from examples_shown import answers, example, with_real_model
from fakes.provider import Provider, Wait
from strandline.testing import Gate

SHOWN = example("graph")


def test_a_short_text_stays_and_a_long_one_is_shortened(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "graph")
    with serving(*SHOWN.serve, folder=folder, journal=None) as server:
        short, long = answers(server, SHOWN)
        assert short == "A text about bees"
        assert long.startswith("In short: A text about why it rains")
        assert texts(server.history(), "assistant") == [short, long]


def test_with_real_models_the_run_shows_which_node_is_at_work(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "graph")
    with_real_model(folder, SHOWN)
    gate = Gate()
    with Provider() as provider:
        provider.then("a plan", [Wait(gate), "a text"])
        variables = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": provider.url}
        with serving(*SHOWN.serve, folder=folder, variables=variables) as server:
            pending = server.ask("bees")
            until(lambda: len(provider.requests) == 2, "the second node asks its model")
            (stored,) = server.stored()
            assert server.run(stored.run_id)["phase"] == "node write"
            gate.open()
            assert pending.result(DEADLINE_S).json()["response"] == "a text"
        assert "a plan" in provider.requests[1].question

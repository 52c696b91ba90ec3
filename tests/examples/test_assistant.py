"""examples/assistant: notes are kept by session, in its workspace; a real model takes the same tools."""

from pathlib import Path

from acceptance.server import serving, tool_results
from examples_shown import answers, example, with_real_model
from fakes.provider import Provider, ToolCall

SHOWN = example("assistant")


def test_each_session_has_notes_of_its_own_which_outlive_the_server(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "assistant")
    with serving(*SHOWN.serve, folder=folder, journal=None) as server:
        kept, read, none = answers(server, SHOWN)
        assert (kept, read, none) == ("Kept as shopping-list.md.", "tea, ginger", "There are no notes.")
        server.kill()
        server.start()
        assert server.chat("what about Shopping List?", "ada")["response"] == "tea, ginger"
        assert len(server.history("ada")) == 3 * 4
    (note,) = (folder / ".strandline" / "workspace").rglob("*.md")
    assert note.read_text() == "tea, ginger"


def test_no_title_leads_out_of_the_workspace(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "assistant")
    with serving(*SHOWN.serve, folder=folder, journal=None) as server:
        assert server.chat("note ../../../elsewhere: x")["response"] == "Kept as elsewhere.md."
        assert server.chat("what about nothing?")["response"].startswith("Error: FileNotFoundError")
    assert [note.name for note in tmp_path.rglob("elsewhere*")] == ["elsewhere.md"]
    assert (folder / ".strandline" / "workspace") in next(tmp_path.rglob("elsewhere.md")).parents


def test_the_lines_for_a_real_model_are_all_that_it_takes(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "assistant")
    with_real_model(folder, SHOWN)
    with Provider() as provider:
        provider.then([ToolCall("write_note", {"title": "tea", "text": "green"})], "It is written down.")
        variables = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": provider.url}
        with serving(*SHOWN.serve, folder=folder, journal=None, variables=variables) as server:
            assert server.chat("please note that tea is green")["response"] == "It is written down."
            assert tool_results(server.history()) == ["Kept as tea.md."]

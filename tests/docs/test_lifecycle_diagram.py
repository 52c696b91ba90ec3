"""The life cycle that ARCHITECTURE.md shows is the one that the code keeps."""

from pathlib import Path

from strandline._lifecycle import diagram

ARCHITECTURE = Path(__file__).parents[2] / "ARCHITECTURE.md"


def test_the_architecture_page_shows_the_table_of_moves() -> None:
    block = f"```mermaid\n{diagram()}```"

    shown = ARCHITECTURE.read_text(encoding="utf-8")

    assert block in shown, (
        f"{ARCHITECTURE.name} does not show the moves as they are in lifecycle.py; put this there:\n\n{block}"
    )

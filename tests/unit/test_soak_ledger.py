"""The tools' ledger, as it is when a writer was killed in the middle of a line."""

from pathlib import Path

from soak.ledger import Ledger, Reader


def test_what_a_killed_writer_left_of_a_line_is_no_line_and_costs_no_other_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    reader, ledger = Reader(path), Ledger(path)
    ledger.write("model", session="s", label="one")
    assert [line.label for line in reader.new()] == ["one"]
    with path.open("ab") as cut_off:
        cut_off.write(b'\n{"kind":"begin","session"')
    assert [*reader.new()] == [], "it may become whole yet"
    ledger.write("model", session="s", label="two")
    assert [line.label for line in reader.new()] == ["two"]

"""The records of decisions: each says how it stands, and those that touch another one agree on that."""

import re
from pathlib import Path
from typing import Final

import pytest

FOLDER: Final = Path(__file__).parents[2] / "docs" / "adr"
RECORDS: Final = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
INVERSE: Final = {
    "Supersedes": "Superseded by",
    "Supersedes in part": "Superseded in part by",
    "Amends": "Amended by",
    "Extends": "Extended by",
    "Builds on": "Built upon by",
}
"""What a record says of an older one, and what that one says in turn."""
LINK: Final = re.compile(r"\[(\d+)\]\((\d{4}-[\w-]+\.md)\)")
RELATION: Final = re.compile(rf"({'|'.join([*INVERSE, *INVERSE.values()])}) ((?:{LINK.pattern}(?:, | and )?)+)(?=[:.])")


def status(name: str) -> str:
    """Return the paragraph below the title, in one line."""
    return " ".join(RECORDS[name].split("\n\n")[1].split())


def relations(name: str) -> set[tuple[str, str]]:
    """Return what a record says of others: how, and of which."""
    found = RELATION.finditer(status(name))
    return {(each[1], file) for each in found for _, file in LINK.findall(each[2])}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_has_its_number_and_says_how_it_stands(name: str) -> None:
    assert re.match(rf"# {int(name[:4])}\. \S", RECORDS[name])
    assert re.match(r"Status: (accepted|superseded)[.,]", status(name)), (
        f"write `Status: accepted.` below its title: {name}"
    )
    superseded = any(how == "Superseded by" for how, _ in relations(name))
    assert status(name).startswith("Status: superseded") == superseded, "by which one?"


def test_a_number_is_given_once() -> None:
    assert len({name[:4] for name in RECORDS}) == len(RECORDS) > 70


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_touches_another_one_is_named_there_in_turn(name: str) -> None:
    linked = {file for _, file in relations(name)}
    assert {file for _, file in LINK.findall(status(name))} == linked, f"say how: {', '.join(INVERSE)}"
    assert not re.search(r"ADR \d", status(name)), "link to it"
    for how, file in relations(name):
        if how in INVERSE:
            assert file < name, "a newer one cannot be known to it"
            assert (INVERSE[how], name) in relations(file), f"{file} does not say that it is {INVERSE[how]} {name}"
        else:
            before = next(active for active, passive in INVERSE.items() if passive == how)
            assert (before, name) in relations(file), f"{file} does not say that it {before} {name}"


def test_numbers_of_links_are_those_of_their_files() -> None:
    for name, text in RECORDS.items():
        for number, file in LINK.findall(text):
            assert int(file[:4]) == int(number), name
            assert file in RECORDS, name

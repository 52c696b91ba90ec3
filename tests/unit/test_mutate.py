"""`tools/mutate.py`: which modules and tests it chooses, and what it reads of verdicts; mutmut is not needed."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from tools.mutate import OTHERS, PARTS, ROOT, SELECTED, Part, chosen, configuration, files, sample, table, verdicts

RULES = "src/strandline/_journal/rules.py"


def test_without_names_every_part_is_run_with_its_own_tests() -> None:
    parts = list(chosen([], []))
    assert [part.name for part in parts] == ["history", "journal", "engine"]
    assert [part.tests for part in parts] == [part.tests for part in PARTS]
    assert "src/strandline/_history/closing.py" in parts[0].modules
    assert "src/strandline/_engine/queues/slots.py" in parts[2].modules


def test_all_modules_and_tests_of_the_parts_are_there() -> None:
    for part in PARTS:
        assert len(files(part.modules)) >= len(part.modules)
        assert [test for test in part.tests if not (ROOT / test).is_file()] == []


def test_a_module_is_guarded_by_the_tests_of_its_part() -> None:
    (part,) = chosen(["_journal/rules.py"], [])
    assert part == Part("journal", (RULES,), PARTS[1].tests)
    assert list(chosen([RULES], [])) == [part], "as a path from the repository, too"


def test_a_folder_is_split_among_its_parts_and_the_rest_is_guarded_by_all_units() -> None:
    journal, others = chosen(["_journal"], [])
    assert (journal.name, others.name, others.tests) == ("journal", "others", OTHERS.tests)
    assert RULES in journal.modules
    assert "src/strandline/_journal/reader.py" in others.modules
    assert not set(journal.modules) & set(others.modules)


def test_tests_that_are_named_guard_instead() -> None:
    (part,) = chosen(["_journal/rules.py"], ["tests/unit/test_table.py"])
    assert part.tests == ("tests/unit/test_table.py",)


@pytest.mark.parametrize("name", ["_histroy", "_http/wire"])
def test_a_name_of_no_module_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no module below src/strandline"):
        files([name])


def test_the_settings_name_modules_and_tests_one_a_line() -> None:
    read = configparser.ConfigParser()
    read.read_string(configuration(Part("p", (RULES, "b.py"), ("tests/a.py",)), ["judging", "docs"]))
    found = read["mutmut"]
    assert found["only_mutate"].split() == [RULES, "b.py"]
    assert found["also_copy"].split() == ["judging", "docs"]
    assert found["pytest_add_cli_args_test_selection"].split() == ["tests/a.py"]
    assert found["type_check_command"].split()[-2:] == [RULES, "b.py"]
    assert SELECTED in found["pytest_add_cli_args"].split("\n")


def test_a_sample_is_the_same_for_a_seed_and_in_order() -> None:
    names = [f"mutant_{number:03}" for number in range(100)]
    drawn = sample(names, 10, 7)
    assert len(set(drawn)) == 10
    assert drawn == sorted(drawn) == sample(names, 10, 7) != sample(names, 10, 8)
    assert sample(names, 1000, 7) == names


LISTED = """
    strandline._history.texts.x_stored_reason__mutmut_1: killed
    strandline._history.texts.x_stored_reason__mutmut_2: caught by type check
    strandline._journal.rules.xǁTurnǁends__mutmut_1: survived
    strandline._journal.rules.xǁTurnǁends__mutmut_2: segfault
    strandline._journal.rules.xǁTurnǁends__mutmut_3: not checked
"""


def test_verdicts_are_read_from_mutmuts_list_without_what_was_not_tested() -> None:
    assert verdicts(LISTED) == {
        "strandline._history.texts.x_stored_reason__mutmut_1": "killed",
        "strandline._history.texts.x_stored_reason__mutmut_2": "caught by type check",
        "strandline._journal.rules.xǁTurnǁends__mutmut_1": "survived",
        "strandline._journal.rules.xǁTurnǁends__mutmut_2": "segfault",
    }


def test_the_table_counts_each_module_and_hides_no_odd_end() -> None:
    lines = table(verdicts(LISTED)).splitlines()
    assert lines[0] == "| module | mutants | killed | caught by type check | timeout | survived | no tests |"
    assert lines[2:] == [
        "| _history.texts | 2 | 1 | 1 | 0 | 0 | 0 |",
        "| _journal.rules | 2 | 0 | 0 | 0 | 2 | 0 |",
        "| all | 4 | 1 | 1 | 0 | 2 | 0 |",
    ]


def test_the_command_says_how_it_is_used_and_refuses_an_unknown_module() -> None:
    command = [sys.executable, str(Path(ROOT, "tools/mutate.py"))]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "--again" in shown
    refused = subprocess.run([*command, "_histroy"], capture_output=True, text=True, check=False)
    assert (refused.returncode, "_histroy is no module" in refused.stderr) == (1, True)

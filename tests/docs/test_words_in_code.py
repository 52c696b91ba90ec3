"""Code says what a newcomer knows from the field: words of its own that were replaced do not come back."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from docs.pages import ROOT

IN_NAMES: Final = {
    **dict.fromkeys(("settle", "settled", "settles", "settling", "settlement"), "finish, Completion"),
    **dict.fromkeys(("stage", "staged", "staging", "fact", "facts"), "checkpoint"),
    **dict.fromkeys(("told", "tell", "tells", "telling"), "publish, show, answer, log"),
    **dict.fromkeys(("asked", "asks"), "request"),
    **dict.fromkeys(("wish", "wishes", "drafts"), "RunOptions, RunBuilder"),
    **dict.fromkeys(("owe", "owes", "owed"), "deferred writes"),
    **dict.fromkeys(("seal", "seals", "sealed", "soundness", "forgetting"), "checksum, integrity, deletion"),
    **dict.fromkeys(("tidy", "chore", "chores", "upkeep"), "evict, maintenance"),
    **dict.fromkeys(("crew", "errand", "errands"), "WorkerPool, RemoteCall"),
    **dict.fromkeys(("door", "crowd", "tally", "looks"), "middleware, limiter, recorder, sampler"),
    **dict.fromkeys(("opaque", "exclusive", "external"), "resumable, singleton, self_managed"),
    **dict.fromkeys(("shelf", "audience", "presence"), "ReplayBuffer, subscribers"),
    **dict.fromkeys(("verb", "verbs", "house", "recipe", "leftover", "leftovers"), "operation, module, lingering"),
}
"""Words that are no part of a name, and what is instead."""
IN_PROSE: Final = re.compile(
    r"\b(whoever|whomever|verbs?|settle[sd]?|settling|settlements?|staged?|staging"
    r"|(?:give|gives|given|gave|giving) (?:it |a run |them |the run )?back|opaque|told|tells?|telling|wish(?:es)?"
    r"|mend(?:s|ed|ing)?|go on|goes on|going on|gone on|went on|seal(?:s|ed)?|tally|tallies|ow(?:e|es|ed)"
    r"|chores?|upkeep|errands?|leftovers?|asked for|that which|in one room)\b",
    re.IGNORECASE,
)
ALLOWED: Final = {
    "bench/stored.py": {"opaque"},  # stored names
    "src/strandline/_journal/reader.py": {"opaque", "staged"},
    "src/strandline/_journal/sqlite_rows.py": {"opaque", "staged"},
    "src/strandline/_journal/postgres/transactions.py": {"opaque"},
    "src/strandline/_journal/postgres/verify.py": {"staged"},
    "src/strandline/_journal/superseded.py": {"opaque"},
    "src/strandline/_journal/tables.py": {"opaque", "staged"},
    "src/strandline/_journal/verify.py": {"staged"},
    "src/strandline/_history/texts.py": {"asked for"},  # stored sentences
    "simulation/parts.py": {"asked for"},
    "soak/case.py": {"asked for"},
    "src/strandline/_older_names.py": {"tell", "told", "leftovers"},  # values and fields that users have
    "src/strandline/_agents/waiting_tool.py": {"tell"},
    "src/strandline/_engine/execution/runner.py": {"tell"},
    "src/strandline/_settings.py": {"tell"},
    "src/strandline/_library.py": {"tell"},
    "src/strandline/_http/routes/health.py": {"leftovers"},
    "src/strandline/_check/suite.py": {"told"},
    "src/strandline/_engine/maintenance/background.py": {"upkeep"},
    "src/strandline/client/__init__.py": {"wishes"},
    "src/strandline/_demo/__main__.py": {"tell"},  # a prompt
    "src/strandline/_agents/answer_format.py": {"stage"},  # Strands' own
    "src/strandline/_agents/client_tools.py": {"stage"},
    "src/strandline/_agents/rounds.py": {"stage"},  # Strands' own
    "soak/target.py": {"asks"},  # a tool that asks a person
    "bench/peers/record.py": {"told"},  # in the figures that were measured
    "bench/peers/verdicts.py": {"told"},
    "bench/peers/subjects.py": {"asked for"},
}
"""What is a name that is stored, sent, set or somebody else's."""
FILES: Final = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("src", "judging", "simulation", "soak", "bench", "tools", "container")
    for path in (ROOT / folder).rglob("*.py")
)


TEXTS: Final = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", None)}
"""Kinds of tokens with prose: from Python 3.12 on, the text of an f-string is in parts of its own."""


def words(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, word) for each word of a file that was replaced; code in backticks is not prose."""
    for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
        if token.type in TEXTS:
            for match in IN_PROSE.finditer(re.sub(r"`[^`]*`", "", token.string)):
                yield token.start[0], match[0].lower()
        elif token.type == tokenize.NAME:
            parts = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", token.string).lower().split("_")
            yield from ((token.start[0], part) for part in parts if part in IN_NAMES)


@pytest.mark.parametrize("file", FILES)
def test_code_uses_plain_words(file: str) -> None:
    found = [
        f"{file}:{line}: {word}, rather: {IN_NAMES.get(word, 'plain, active English')}"
        for line, word in words(ROOT / file)
        if word not in ALLOWED.get(file, set())
    ]
    assert found == []


def test_what_is_allowed_is_there() -> None:
    unused = {file: allowed - {word for _, word in words(ROOT / file)} for file, allowed in ALLOWED.items()}
    assert {file: rest for file, rest in unused.items() if rest} == {}

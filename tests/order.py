"""The order of the tests: as they stand, or drawn from a seed that is printed, so that it can be run again.

`pytest --order random` (or `--order 17`, `make test ORDER=random`). Tests of a module stay together, since some share a
server; modules are shuffled, and the tests in each. The cases of one test stay as they are: those of a page are its
commands, typed one after the other.
"""

import random
import re
from itertools import groupby

import pytest

RANDOM = "random"


def drawn(value: str) -> str:
    """Return the requested seed, or a random one. Raises `UsageError`."""
    if value == RANDOM:
        return str(random.SystemRandom().randrange(10_000))
    if not re.fullmatch(r"\d{1,9}", value):
        raise pytest.UsageError("--order is a number, or `random`")
    return value


def shuffle(items: list[pytest.Item], seed: str) -> None:
    """Bring tests into the order of a seed."""
    by = random.Random(seed)
    modules = [list(tests) for _, tests in groupby(items, lambda item: item.nodeid.partition("::")[0])]
    by.shuffle(modules)
    for tests in modules:
        cases = [list(same) for _, same in groupby(tests, lambda item: item.nodeid.partition("[")[0])]
        by.shuffle(cases)
        tests[:] = [item for same in cases for item in same]
    items[:] = [item for tests in modules for item in tests]

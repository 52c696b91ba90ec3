"""What other packages keep private and Strandline uses all the same, each part behind a name that says what for.

A module for each package: `strands`, `uvicorn`, and what CPython keeps private: `threads`, `frames`, `virtual_loop`. No
other module uses such a part (`tests/unit/test_compat.py` looks), and each one has a test there that fails when it is
gone or works otherwise. Nothing here knows of runs, sessions or HTTP.
"""

from typing import Final

TESTED_VERSIONS: Final = {"strands-agents": ((1, 62), (1, 63)), "uvicorn": ((0, 53), (0, 55))}
"""For each package the first version on which those tests pass, and the first on which they have not been run; what
`pyproject.toml` asks for."""


def bounds(package: str) -> str:
    """Return the versions of a package that were tried, as pip takes them: `>=1.62,<1.63`."""
    (first, beyond) = (".".join(map(str, version)) for version in TESTED_VERSIONS[package])
    return f">={first},<{beyond}"


def is_tested(package: str, version: str) -> bool:
    """Return whether a version of a package is one on which its private parts were tried."""
    first, beyond = TESTED_VERSIONS[package]
    return first <= tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < beyond

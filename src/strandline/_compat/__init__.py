"""All uses of private parts of other packages, behind functions named for their purpose.

One module per package (`strands`, `uvicorn`); `threads`, `frames` and `virtual_loop` use private parts of CPython. No
other module uses a private part (`tests/unit/test_compat.py` checks), and each one has a test there that fails when it
is gone or behaves differently. Nothing here knows of runs, sessions or HTTP.
"""

from typing import Final

TESTED_VERSIONS: Final = {"strands-agents": ((1, 62), (1, 63)), "uvicorn": ((0, 53), (0, 55))}
"""For each package, the first version on which those tests pass and the first one on which they have not been run.
`pyproject.toml` requires the same range."""


def bounds(package: str) -> str:
    """Return the tested versions of a package for pip: `>=1.62,<1.63`."""
    (first, beyond) = (".".join(map(str, version)) for version in TESTED_VERSIONS[package])
    return f">={first},<{beyond}"


def is_tested(package: str, version: str) -> bool:
    """Return whether the private parts of a package were tested on a version."""
    first, beyond = TESTED_VERSIONS[package]
    return first <= tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < beyond

"""What tests of several folders share."""

import os
import uuid
from collections.abc import Iterator

import pytest

from docker_engine import build_image, docker, why_no_engine


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The image of this checkout, built once. No engine: the test is skipped, or fails where CI promised one."""
    reason = why_no_engine()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    name = f"strandline-test:{uuid.uuid4().hex[:12]}"
    build_image(name)
    yield name
    docker("rmi", "--force", name)

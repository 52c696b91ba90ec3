"""`docs/container.md` shows what the tests run, and names what is there."""

import re
import shlex
from itertools import pairwise

from docker_engine import HARDENED
from docs.pages import ROOT, block, blocks
from strandline._server import CONNECTIONS_GRACE_S

PAGE = (ROOT / "docs" / "container.md").read_text()


def test_the_command_that_locks_it_down_is_the_one_that_is_tested() -> None:
    words = shlex.split(block("container.md", "sh", "docker run").replace("\\\n", ""))
    shown = set(pairwise(words))
    pairs = [option for option in HARDENED if option != "--read-only"]
    assert set(zip(pairs[::2], pairs[1::2], strict=True)) <= shown
    assert "--read-only" in words
    stop_s = next(int(value) for name, value in shown if name == "--stop-timeout")
    drain_s = next(int(value.partition("=")[2]) for name, value in shown if value.startswith("STRANDLINE_DRAIN_GRACE"))
    assert stop_s > drain_s + 1 + CONNECTIONS_GRACE_S + 1


def test_an_image_of_ones_own_is_the_example() -> None:
    assert blocks("container.md", "dockerfile") == [(ROOT / "examples" / "container" / "Dockerfile").read_text()]


def test_every_folder_and_file_that_it_names_is_there() -> None:
    named = re.findall(r"`((?:examples|deploy)/[\w./-]+)`", PAGE)
    assert named
    assert all((ROOT / each).exists() for each in named)
    for name in ("strandline-api-keys", "strandline-agent"):
        assert name in (ROOT / "deploy" / "kubernetes" / "statefulset.yaml").read_text()
        assert name in PAGE

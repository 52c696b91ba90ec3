"""What tests of several folders share."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings

import order
from docker_engine import build_image, docker, why_no_engine
from postgres_pooler import Pooler, why_no_pooler
from postgres_relay import Relay
from tools.postgres import Cluster, why_no_postgres

if TYPE_CHECKING:
    from postgres_support import SharedDatabase

# How long an example takes says how busy the machine is.
settings.register_profile("strandline", deadline=None)
# For `make mutate`: the same examples for each mutant, and none after the first that fails.
settings.register_profile(
    "mutation",
    deadline=None,
    max_examples=40,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("strandline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order", metavar="SEED", help="run the tests in the order of this seed; `random` draws one")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    heed_signals()
    if (value := config.getoption("--order")) is not None:
        worker = getattr(config, "workerinput", {})  # of a process that shares the tests with others
        config.option.order = worker.get("order") or order.drawn(value)


def heed_signals() -> None:
    """Have processes under test end by the signals that `nohup`, or a script's `&`, has this one ignore."""
    for number, usual in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["order"] = node.config.getoption("--order")


def pytest_report_header(config: pytest.Config) -> list[str]:
    seed = config.getoption("--order")
    return [] if seed is None else [f"in the order of seed {seed}; again: --order {seed}"]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for line in pytest_report_header(config):  # (`-q` has no header)
        terminalreporter.write_line(line)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (seed := config.getoption("--order")) is not None:
        order.shuffle(items, seed)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from distribution import Distribution  # where several processes share the tests only

    return Distribution(config, log)


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


@pytest.fixture
def compose(image: str) -> None:
    """Compose is there: else the test is skipped, or fails where CI promised it. (`image` asks for an engine first.)"""
    done = subprocess.run(["docker", "compose", "version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = "docker compose is not installed (Debian: apt install docker-compose)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres_programs() -> None:
    """PostgreSQL can be started: else the test is skipped, or fails where CI promised it."""
    reason = why_no_postgres()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres(postgres_programs: None) -> Iterator[Cluster]:
    """A PostgreSQL of this process's tests."""
    cluster = Cluster()
    yield cluster
    cluster.remove()


@pytest.fixture
def database(postgres: Cluster) -> Iterator[str]:
    """Where an empty database of this test's own is."""
    url = postgres.new_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def shared_database(postgres: Cluster) -> "SharedDatabase":
    """A database that is made as new for each test, of those that know a journal only by its port."""
    from postgres_support import SharedDatabase  # (which needs the driver)

    return SharedDatabase(postgres)


@pytest.fixture(params=[0, 200], ids=["forgetful", "heeding"])
def pooler(postgres: Cluster, request: pytest.FixtureRequest) -> Iterator[Pooler]:
    """A pooler before it: one that knows nothing of prepared statements, and one that has them prepared everywhere."""
    reason = why_no_pooler()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    pooler = Pooler(postgres, prepared_statements=request.param)
    yield pooler
    pooler.close()


@pytest.fixture
def relay(tmp_path_factory: pytest.TempPathFactory, postgres: Cluster) -> Iterator[Relay]:
    relay = Relay(tmp_path_factory.mktemp("relay"), postgres.folder)
    yield relay
    relay.close()


@pytest.fixture
def through(relay: Relay, postgres: Cluster, database: str) -> str:
    """Where the database is, through the relay."""
    return database.replace(str(postgres.folder), str(relay.folder))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, empty; what is imported from it is forgotten afterwards, so that no test meets another's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
        if any(place is not None and Path(place).is_relative_to(tmp_path) for place in places):
            del sys.modules[name]

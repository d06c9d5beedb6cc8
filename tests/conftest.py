from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis.internal.conjecture import providers

import sdists
from paths import TESTS
from postgres_server import PostgresServer, running_server, stores_in
from property_examples import examples
from running_service import STARTER, WEIGHTLESS, RunningService
from s3_server import S3Server, running_s3_server

# No clock decides, as other processes use this machine too; and the same examples for all, so that a red run is red again.
hypothesis.settings.register_profile(
    "batch",
    max_examples=examples(100),
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("batch")
# Nor do they depend on what else is imported: hypothesis would read all our modules that are, and draw constants of them.
providers._get_local_constants = lambda: providers._local_constants
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A shell's background jobs, CI's say, ignore Ctrl-C, and what the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# pytest's debugger imports readline, which tells every child process that it has a terminal of 80 columns.
with contextlib.suppress(ImportError):
    importlib.import_module("readline")
for size in ("COLUMNS", "LINES"):
    os.environ.pop(size, None)
    os.unsetenv(size)


MARKED_FOLDERS = {"drills": "drill", "peers": "peer"}
"""Folders of tests/ whose tests all carry a marker, so that `make test` can leave them to CI."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, and keep tests/unit quick: nothing there may start a service."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in MARKED_FOLDERS:
            item.add_marker(MARKED_FOLDERS[folder])
        starts_service = {"service", "start_service"} & set(getattr(item, "fixturenames", ()))
        if folder == "unit" and starts_service:
            raise pytest.UsageError(f"{item.nodeid} starts a service: it belongs in tests/service.")


def pytest_sessionstart() -> None:
    """Nothing is garbage while thousands of tests are collected: looking for it takes a fifth of that time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Nor is what was collected garbage later: no look goes through it again."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """llama-cpp-python opens /dev/null twice when it is imported and never closes it: a warning when this process ends."""
    if library := sys.modules.get("llama_cpp._utils"):
        library.outnull_file.close()
        library.errnull_file.close()


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., RunningService]]:
    """Start services in homes of their own: `start_service(BATCH_QUEUE__GRACE="1")`; weightless unless told otherwise."""
    started: list[RunningService] = []

    def start(home: Path | None = None, **variables: str) -> RunningService:
        folder = home or tmp_path / f"home{len(started)}"
        folder.mkdir(exist_ok=True)
        service = RunningService(folder, {**WEIGHTLESS, **variables})
        started.append(service)
        return service.start()

    yield start
    for service in started:
        service.close()


def _source(package: str, lock: str) -> Path:
    source = sdists.unpacked(package, lock)
    if source is None:
        pytest.skip(f"the source package of {package} cannot be fetched")
    return source


@pytest.fixture(scope="session")
def llama_cpp_source() -> Path:
    """llama.cpp's source, as the llama-cpp-python package carries it."""
    return _source("llama-cpp-python", "requirements.lock") / "vendor" / "llama.cpp"


@pytest.fixture(scope="session")
def json_schema_suite() -> Path:
    """The JSON-Schema-Test-Suite, as the jsonschema package carries it."""
    return _source("jsonschema", "requirements-dev.lock") / "json" / "tests"


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service with the small real models, shared by a test process; tests leave nothing queued behind."""
    with RunningService(tmp_path_factory.mktemp("service"), STARTER) as running:
        yield running.ready()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL server a test process; each test makes databases of its own in it."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server that speaks S3 a test process; each test has a prefix of its own."""
    with running_s3_server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | str]:
    """What `open_store` takes for a new, empty database."""
    if request.param == "sqlite":
        yield tmp_path / ".batch" / "batch.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.new_database()
    yield url
    server.empty_database(url)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def every_database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test once more with all that it opens in PostgreSQL, unless it is marked as one that asks SQLite itself."""
    if request.param == "sqlite":
        yield
        return
    if request.node.get_closest_marker("sqlite"):
        pytest.skip("it asks SQLite itself")
    with stores_in(request.getfixturevalue("postgres_server"), monkeypatch):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """File names that are no text stand in captured logs as lone surrogates, which xdist cannot send on."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "replace").decode()) for name, text in report.sections]
    return report

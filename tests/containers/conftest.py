"""A Docker engine, the images made on it, and the service run from its compose file."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.containers import images
from tests.containers.kit import Docker, Service, own_engine


def must_have(is_there: bool, what: str) -> None:
    """Skip where it cannot be had; in CI it has to be."""
    if not is_there and os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must have it")
    if not is_there:
        pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """The engine that answers, else one of these tests' own, which only root can start."""
    must_have(shutil.which("docker") is not None, "the docker command")
    docker = Docker(dict(os.environ))
    must_have(docker.runs("compose", "version"), "docker compose")
    if docker.runs("info"):
        yield docker
        return
    has_engine = os.geteuid() == 0 and shutil.which("dockerd") is not None
    must_have(has_engine, "a Docker engine, or root and dockerd to start one,")
    folder = Path(tempfile.mkdtemp(prefix="docker-"))  # A socket's path must be short.
    with own_engine(folder) as own:
        yield own
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def built(docker: Docker) -> images.Built:
    """Our images, as `make images` makes them."""
    return images.build(docker)


@pytest.fixture(scope="session")
def scylla_image(docker: Docker, built: images.Built) -> str:
    """The image that stands in for ScyllaDB's."""
    return images.build_standin(docker, built.base)


@pytest.fixture(scope="session")
def service_env(built: images.Built, scylla_image: str) -> dict[str, str]:
    """What compose.yaml can be told, but for the port."""
    return {
        "SCYLLA_IMAGE": scylla_image,
        "WORKER_IMAGE": built.worker,
        "LOCAL_IMAGE": built.local,
        "BAR_URL": "http://api:8000/health",
    }


@pytest.fixture(scope="module")
def service(docker: Docker, service_env: dict[str, str]) -> Iterator[Service]:
    """One node, the API, the ticker and two workers."""
    service = Service(docker, service_env, free_port())
    try:
        service.up()
        yield service
    finally:
        service.down()


@pytest.fixture
def cluster(docker: Docker, service_env: dict[str, str]) -> Iterator[Service]:
    """The same with three nodes."""
    service = Service(docker, service_env, free_port(), "--profile", "cluster")
    try:
        service.up()
        yield service
    finally:
        service.down()


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Show what the containers said where a test failed."""
    if call.when == "call" and call.excinfo is not None:
        service = getattr(item, "funcargs", {}).get("service")
        if isinstance(service, Service):
            item.add_report_section("call", "containers", service.logs()[-20_000:])

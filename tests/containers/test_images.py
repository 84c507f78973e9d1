"""What our images hold, and what they do without compose."""

import re

import pytest

from local.settings import ROOT, SCYLLA_IMAGE
from tests.containers.images import Built, default_base
from tests.containers.kit import CLOCK, Docker, wait_for

pytestmark = [pytest.mark.docker, pytest.mark.wall_clock]

OWN_MB_MAX = 45
"""What an image may have beyond its base."""
TOOLS = "pip pip3 gcc cc make npm git curl"
PACKAGES = "pip setuptools wheel ensurepip docker pytest"


def test_images_are_pinned() -> None:
    compose = (ROOT / "local" / "compose.yaml").read_text()
    assert re.findall(r"\bscylladb/scylla:[^}\s]*", compose) == [SCYLLA_IMAGE]
    assert re.fullmatch(r"scylladb/scylla:\d+\.\d+\.\d+", SCYLLA_IMAGE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm", default_base())


@pytest.mark.parametrize("name", ["worker", "local"])
def test_an_image_is_small_and_holds_no_tools(name: str, docker: Docker, built: Built) -> None:
    image = getattr(built, name)
    seen = docker.inspect(image)
    own_mb = (seen["Size"] - docker.inspect(built.base)["Size"]) / 1_000_000
    print(f"{image}: {seen['Size'] / 1_000_000:.0f} MB, of these {own_mb:.0f} MB our own")
    assert own_mb < OWN_MB_MAX
    assert seen["Config"]["User"] == "10001:10001"
    look = f"id -u; for tool in {TOOLS}; do command -v $tool; done; true"
    assert docker("run", "--rm", "--entrypoint", "sh", image, "-c", look) == "10001"
    find = "import importlib.util as u, sys; print(*filter(u.find_spec, sys.argv[1:]))"
    left = docker("run", "--rm", "--entrypoint", "python3", image, "-c", find, *PACKAGES.split())
    assert left == ""


def test_the_worker_holds_the_worker_alone(docker: Docker, built: Built) -> None:
    look = ["run", "--rm", "--entrypoint", "ls", built.worker, "-A", "/scheduler"]
    assert docker(*look).split() == ["chalicelib", "worker"]


@pytest.mark.parametrize("options", [[], ["--init"]])
def test_the_worker_ends_well_as_the_only_process(
    options: list[str], docker: Docker, built: Built
) -> None:
    """On a file system that cannot be written, waiting for a store that is not there."""
    name = f"scheduler-test-{len(options)}"
    strict = ["--read-only", "--cap-drop", "ALL", "--network=none"]
    docker("run", "--detach", "--name", name, *strict, *options, built.worker, "--processes", "2")
    try:
        wait_for(lambda: "waiting for the store" in docker.run("logs", name).stderr, 30)
        docker("exec", name, "python3", "-S", "-m", "worker.life", "/dev/shm/life")
        asked_s = CLOCK.monotonic_s()
        docker("stop", "--time", "20", name)
        assert CLOCK.monotonic_s() - asked_s < 8
        assert docker.inspect(name)["State"]["ExitCode"] == 0
    finally:
        docker("rm", "--force", name)


def test_the_api_ends_at_once_as_the_only_process(docker: Docker, built: Built) -> None:
    name = "scheduler-test-api"
    docker("run", "--detach", "--name", name, "--read-only", "--network=none", built.local)
    try:
        wait_for(lambda: docker.inspect(name)["State"]["Health"]["Status"] == "healthy", 40)
        asked_s = CLOCK.monotonic_s()
        docker("stop", "--time", "20", name)
        assert CLOCK.monotonic_s() - asked_s < 5
    finally:
        docker("rm", "--force", name)

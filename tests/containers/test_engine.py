"""`make run` with its store in Docker, with a stand-in for ScyllaDB's image."""

import signal
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers.kit import CLOCK, Docker, wait_for
from tests.local.test_local import Run

pytestmark = [pytest.mark.docker, pytest.mark.wall_clock]


@pytest.fixture
def start(tmp_path: Path, docker: Docker, scylla_image: str) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start_run(**env: str) -> Run:
        host = {name: text for name, text in docker.env.items() if name == "DOCKER_HOST"}
        runs.append(
            Run(tmp_path, **({"ENGINE": "docker", "SCYLLA_IMAGE": scylla_image} | host | env))
        )
        return runs[-1]

    yield start_run
    for run in runs:
        run.kill()
    docker.run("rm", "--force", container(tmp_path))
    docker.run("volume", "rm", "--force", container(tmp_path))


def container(folder: Path) -> str:
    return f"scheduler-{zlib.crc32(bytes(folder / 'data')):08x}"


def test_tasks_stay_in_the_volume_and_no_container_is_left(
    start: Callable[..., Run], docker: Docker, tmp_path: Path
) -> None:
    run = start()
    run.wait_ready()
    id = run.create()
    wait_for(lambda: run.prints(id), 20)
    assert run.end() == 0
    assert not docker.runs("container", "inspect", container(tmp_path))
    assert docker.runs("volume", "inspect", container(tmp_path))
    again = start()
    again.wait_ready()
    assert again.request("GET", f"/task/{id}")["state"] == "completed"
    assert again.end() == 0


def test_what_a_killed_run_left_is_replaced(
    start: Callable[..., Run], docker: Docker, tmp_path: Path
) -> None:
    run = start()
    run.wait_ready()
    run.kill()
    assert docker.inspect(container(tmp_path))["State"]["Running"]
    again = start(ENGINE_PORT=str(run.engine_port))
    again.wait_ready()
    assert again.end() == 0


def test_a_stop_while_it_boots_leaves_nothing(
    start: Callable[..., Run], docker: Docker, tmp_path: Path, scylla_image: str
) -> None:
    run = start(SCYLLA_IMAGE=scylla_image.replace(":dev", ":slow"))
    wait_for(lambda: "ScyllaDB still starts (5 s)" in run.err.read_text(), 30)
    asked_s = CLOCK.monotonic_s()
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(45) == 0
    print(f"ended {CLOCK.monotonic_s() - asked_s:.1f} s after the signal")
    assert not docker.runs("container", "inspect", container(tmp_path))


def test_an_engine_that_ends_while_it_boots_is_told_with_its_last_lines(
    start: Callable[..., Run], docker: Docker, tmp_path: Path, scylla_image: str
) -> None:
    run = start(SCYLLA_IMAGE=scylla_image.replace(":dev", ":broken"))
    assert run.process.wait(60) == 1
    said = run.err.read_text()
    assert "ScyllaDB ended while it started" in said
    assert "Could not setup Async I/O" in said
    assert "Traceback" not in said
    assert not docker.runs("container", "inspect", container(tmp_path))


def test_auto_uses_the_embedded_engine_if_the_image_cannot_be_pulled(
    start: Callable[..., Run],
) -> None:
    run = start(ENGINE="auto", SCYLLA_IMAGE="127.0.0.1:1/scylla:none")
    run.wait_ready()
    said = run.err.read_text()
    assert "127.0.0.1:1/scylla:none cannot be pulled (" in said
    assert "): using the embedded engine" in said
    assert run.end() == 0


def test_docker_without_its_image_is_an_error(start: Callable[..., Run]) -> None:
    run = start(SCYLLA_IMAGE="127.0.0.1:1/scylla:none")
    assert run.process.wait(60) == 1
    last = run.err.read_text().splitlines()[-1]
    assert last.startswith("local: ENGINE=docker: 127.0.0.1:1/scylla:none cannot be pulled (")


def test_a_stop_while_the_registry_is_silent_is_heard(start: Callable[..., Run]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as registry:
        run = start(SCYLLA_IMAGE=f"127.0.0.1:{registry.getsockname()[1]}/scylla:none")
        wait_for(lambda: "no answer yet" in run.err.read_text(), 30)
        asked_s = CLOCK.monotonic_s()
        assert run.end() == 0
        assert CLOCK.monotonic_s() - asked_s < 5

"""The client and the command line, with API keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import app as entry
from client.scheduler_client import ApiError, SchedulerClient
from local import tasks as command_line
from tests.client.test_client import Tell, tell
from tests.support.keys import READ, WRITE, keyed
from tests.support.local_server import served

LATER = "2040-01-01T00:00:00Z"

__all__ = ["tell"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a service that asks for keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "api_settings", keyed)
        with served() as port:
            yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("key", "code"), [(None, 401), ("schedkey_x", 401), (READ, 403), (WRITE, None)]
)
def test_a_client_takes_a_key(url: str, key: str | None, code: int | None) -> None:
    waits: list[float] = []
    with requests.Session() as session:
        session.trust_env = False
        scheduler = SchedulerClient(url, key=key, session=session, sleep=waits.append)
        assert WRITE not in repr(scheduler) + str(vars(scheduler))
        if code is None:
            assert scheduler.create("Foo", LATER)["state"] == "scheduled"
            return
        with pytest.raises(ApiError) as error:
            scheduler.create("Foo", LATER)
    assert error.value.code == code
    assert waits == [], "it is not tried again"
    assert "schedkey_" not in str(error.value) + str(vars(error.value))


def test_a_key_goes_before_a_netrc(
    tell: Tell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    _, server, _ = tell((200, {"tasks": [], "cursor": None}))
    with requests.Session() as session:
        scheduler = SchedulerClient(
            f"http://127.0.0.1:{server.server_port}", key=WRITE, session=session
        )
        assert list(scheduler.list()) == []
    assert server.seen[0][2]["Authorization"] == f"Bearer {WRITE}"


# The command line


@pytest.fixture
def shell(url: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("SCHEDULER_KEY", "SCHEDULER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCHEDULER_URL", url)
    return monkeypatch


def test_a_command_takes_a_key(
    shell: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["list"]) == 1
    assert "This needs an API key." in capsys.readouterr().err
    shell.setenv("SCHEDULER_KEY", READ)
    assert command_line.main(["list"]) == 0
    assert command_line.main(["create", "Foo", LATER]) == 1
    assert "This API key may only read." in capsys.readouterr().err
    file = tmp_path / "key"
    file.write_text(f"{WRITE}\n")
    shell.delenv("SCHEDULER_KEY")
    shell.setenv("SCHEDULER_KEY_FILE", str(file))
    assert command_line.main(["create", "Foo", LATER]) == 0
    shown = capsys.readouterr()
    assert "schedkey_" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"SCHEDULER_KEY": "a", "SCHEDULER_KEY_FILE": "b"}, "are both set: keep one"),
        ({"SCHEDULER_KEY_FILE": "/nowhere"}, "SCHEDULER_KEY_FILE='/nowhere': it cannot be read"),
    ],
)
def test_a_key_that_cannot_be_read_is_wrong_usage(
    shell: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], env: dict[str, str], said: str
) -> None:
    for name, value in env.items():
        shell.setenv(name, value)
    assert command_line.main(["list"]) == 2
    assert said in capsys.readouterr().err


def test_no_key_is_told_when_a_service_is_not_there(
    shell: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.setenv("SCHEDULER_URL", "http://127.0.0.1:9")
    shell.setenv("SCHEDULER_KEY", WRITE)
    assert command_line.main(["create", "Foo", "+1h"], sleep=lambda _: None) == 3
    assert WRITE not in capsys.readouterr().err

"""The settings of the service, as they are read from the environment."""

from pathlib import Path

import pytest

from chalicelib.config import Settings
from chalicelib.errors import InvalidSetting


def test_settings_have_defaults() -> None:
    assert Settings.from_env({}) == Settings()


def test_settings_are_read() -> None:
    env = {
        "ALTERNATOR_ENDPOINTS": "https://a:9001, https://b:9001",
        "SHARDS": "32",
        "BATCH_SIZE": "7",
        "POLL_INTERVAL_S": "0.25",
        "RETENTION_DAYS": "0",
        "SWEEP_RATE": "100000",
        "BAR_URL": "http://localhost:1/",
        "TABLE_PREFIX": "x_",
        "WAKEUP": "off",
        "WAKEUP_ADDRESS": "FD00::7",
        "WAKEUP_PORT": "7700",
    }
    settings = Settings.from_env(env)
    assert settings.endpoints == ("https://a:9001", "https://b:9001")
    assert (settings.shards, settings.batch_size, settings.poll_interval_s) == (32, 7, 0.25)
    assert (settings.retention_days, settings.sweep_rate) == (0, 100_000)
    assert (settings.wakeup, settings.wakeup_address, settings.wakeup_port) == (
        False,
        "fd00::7",
        7700,
    )
    assert (settings.bar_url, settings.table_prefix) == ("http://localhost:1/", "x_")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALTERNATOR_ENDPOINTS", ","),
        ("ALTERNATOR_ENDPOINTS", "localhost:8000"),
        ("ALTERNATOR_ENDPOINTS", "http://a:1,http://b:2"),
        ("ALTERNATOR_ENDPOINTS", "http://a:99999"),
        ("SHARDS", "0"),
        ("SHARDS", "-1"),
        ("SHARDS", "many"),
        ("BATCH_SIZE", "1001"),
        ("LOOKAHEAD_S", "0.2"),
        ("POLL_INTERVAL_S", "often"),
        ("RETENTION_DAYS", "-1"),
        ("RETENTION_DAYS", "0.5"),
        ("RETENTION_DAYS", "36501"),
        ("SWEEP_RATE", "9"),
        ("SWEEP_RATE", "100001"),
        ("BAR_URL", "ftp://x"),
        ("TABLE_PREFIX", "no spaces"),
        ("WAKEUP", "maybe"),
        ("WAKEUP_ADDRESS", "worker-1"),
        ("WAKEUP_ADDRESS", "0.0.0.0"),
        ("WAKEUP_ADDRESS", "fe80::1"),
        ("WAKEUP_ADDRESS", "10.0.0.1:77"),
        ("WAKEUP_PORT", "65536"),
    ],
)
def test_unusable_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidSetting) as error:
        Settings.from_env({name: value})
    assert name in str(error.value)
    assert value in str(error.value) or value == ","


HASH = "$6$pfzYX0.hU$9HA/a.$x"
"""What ScyllaDB takes as a secret looks like this: shells and env files would expand it."""


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("secret", [HASH, " a 'b' \"c\" # ", "ä"])
def test_secret_is_read_from_its_file(tmp_path: Path, secret: str, end: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes((secret + end).encode())
    env = {"ALTERNATOR_SECRET_FILE": str(file), "ALTERNATOR_SECRET": ""}
    assert Settings.from_env(env).secret == secret
    assert (
        Settings.from_env({"ALTERNATOR_SECRET": HASH, "ALTERNATOR_SECRET_FILE": ""}).secret == HASH
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"USER=scheduler\nSECRET=xyz\n", "the secret in one line"),
        (b"xyz\n\n", "the secret in one line"),
        (b"xyz\xff", "cannot be read"),
    ],
)
def test_secret_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(
        InvalidSetting, match=f"^ALTERNATOR_SECRET_FILE='{file}': .*{said}"
    ) as error:
        Settings.from_env({"ALTERNATOR_SECRET_FILE": str(file)})
    assert "xyz" not in str(error.value)


def test_secret_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("xyz")
    env = {"ALTERNATOR_SECRET": "xyz", "ALTERNATOR_SECRET_FILE": str(file)}
    with pytest.raises(
        InvalidSetting, match="ALTERNATOR_SECRET and ALTERNATOR_SECRET_FILE"
    ) as error:
        Settings.from_env(env)
    assert "xyz" not in str(error.value)

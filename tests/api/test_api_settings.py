"""The API's own settings and its keys, as they are read from the environment."""

import hmac
from pathlib import Path

import pytest

from chalicelib.api import keys as api_keys
from chalicelib.api.keys import ApiKey, Scope, found_key, key_entry, new_key, parsed_keys
from chalicelib.api.settings import ApiSettings, Auth
from chalicelib.errors import InvalidSetting
from tests.support.keys import ENTRIES, OTHER, READ, WRITE, WRONG

HASH = ENTRIES[0].rpartition(":")[2]
LAMBDA = {"AWS_LAMBDA_FUNCTION_NAME": "api"}
KEYS = ",".join(ENTRIES)


def test_settings_have_defaults() -> None:
    assert ApiSettings.from_env({}) == ApiSettings()
    empty = dict.fromkeys(("API_KEYS", "API_KEYS_FILE", "API_AUTH", "CORS_ORIGINS"), "")
    assert ApiSettings.from_env(empty) == ApiSettings()


def test_settings_are_read() -> None:
    settings = ApiSettings.from_env({
        "API_KEYS": KEYS,
        "CORS_ORIGINS": "https://a.example.org, http://localhost:3000,https://[::1]:8",
        "HORIZON_DAYS": "400",
        "CREATES_PER_MINUTE": "600",
    })  # fmt: skip
    assert settings.auth is Auth.KEYS
    names = [(key.name, key.scope) for key in settings.keys]
    assert names == [
        ("dashboard", Scope.READ),
        ("orders", Scope.WRITE),
        ("orders", Scope.WRITE),
        ("billing", Scope.WRITE),
    ]
    origins = {"https://a.example.org", "http://localhost:3000", "https://[::1]:8"}
    assert settings.cors_origins == origins
    assert (settings.horizon_days, settings.creates_per_minute) == (400, 600)


@pytest.mark.parametrize(
    ("env", "auth"),
    [
        ({}, Auth.NONE),
        (LAMBDA, Auth.CLOSED),
        ({**LAMBDA, "API_AUTH": "none"}, Auth.NONE),
        ({**LAMBDA, "API_AUTH": "iam"}, Auth.IAM),
        ({"API_AUTH": "iam"}, Auth.IAM),
        ({**LAMBDA, "API_KEYS": KEYS}, Auth.KEYS),
        ({"API_KEYS": KEYS}, Auth.KEYS),
    ],
)
def test_who_may_call(env: dict[str, str], auth: Auth) -> None:
    assert ApiSettings.from_env(env).auth is auth


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_AUTH", "keys"),
        ("API_AUTH", "None"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "https://a.example.org/"),
        ("CORS_ORIGINS", "https://A.example.org"),
        ("CORS_ORIGINS", "a.example.org"),
        ("CORS_ORIGINS", "null"),
        ("HORIZON_DAYS", "-1"),
        ("HORIZON_DAYS", "1.5"),
        ("HORIZON_DAYS", "9999999"),
        ("CREATES_PER_MINUTE", "many"),
    ],
)
def test_an_unusable_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=f"^{name}=.*expected") as error:
        ApiSettings.from_env({name: value})
    assert value in str(error.value)


@pytest.mark.parametrize("auth", ["none", "iam"])
def test_keys_beside_another_way_are_refused(auth: str) -> None:
    with pytest.raises(InvalidSetting, match=f"API_KEYS and API_AUTH={auth} are both set"):
        ApiSettings.from_env({"API_KEYS": KEYS, "API_AUTH": auth})


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (WRITE, "entry 2: expected NAME:SCOPE:HASH"),
        (HASH, "entry 2: expected NAME:SCOPE:HASH"),
        (f"a:{HASH}", "entry 2: expected NAME:SCOPE:HASH"),
        (f"a:write:{HASH}:x", "entry 2: expected NAME:SCOPE:HASH"),
        (f":write:{HASH}", "entry 2: the name cannot be used"),
        (f"{WRITE}:write:{HASH}", "entry 2: the name cannot be used"),
        (f"{HASH}:write:{WRITE}", "entry 2: the name cannot be used"),
        (f"a b:write:{HASH}", "entry 2: the name cannot be used"),
        (f"a:admin:{HASH}", "entry 2: the scope is not known; expected read or write"),
        (f"a:{WRITE}:{HASH}", "entry 2: the scope is not known"),
        (f"a::{HASH}", "entry 2: the scope is not known"),
        (f"a:write:{WRITE}", "entry 2: the hash cannot be used.*not the key itself"),
        (f"a:write:{HASH[1:]}", "entry 2: the hash cannot be used"),
        (f"a:write:{HASH}", "entries 1 and 2 are of the same key"),
        (f"a:write:{HASH.upper()}", "entries 1 and 2 are of the same key"),
    ],
)
@pytest.mark.parametrize("between", [",", "\n", "\n# a comment\n\n", " ,, "])
def test_an_entry_that_cannot_be_used_is_named_by_its_number(
    tmp_path: Path, entry: str, said: str, between: str
) -> None:
    text = ENTRIES[0] + between + entry
    file = tmp_path / "keys"
    file.write_text(text)
    for name, value in (("API_KEYS", text), ("API_KEYS_FILE", str(file))):
        with pytest.raises(InvalidSetting, match=f"(?s)^{name}: {said}") as error:
            ApiSettings.from_env({name: value})
        for secret in (WRITE, HASH):
            assert secret not in str(error.value)
            assert error.value.__context__ is None


@pytest.mark.parametrize("text", [",", " \n ", "# nothing\n", "#" + KEYS])
def test_no_keys_are_not_taken_for_a_service_without_keys(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidSetting, match="API_KEYS has no entry"):
        ApiSettings.from_env({"API_KEYS": text})
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(InvalidSetting, match=r"API_KEYS_FILE.*(no entry|empty)"):
        ApiSettings.from_env({"API_KEYS_FILE": str(file)})


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the shop, since May\n" + "\r\n".join(ENTRIES) + "  # the last\n")
    by_file = ApiSettings.from_env({"API_KEYS_FILE": str(file)})
    assert by_file == ApiSettings.from_env({"API_KEYS": KEYS})
    with pytest.raises(InvalidSetting, match="API_KEYS and API_KEYS_FILE are both set"):
        ApiSettings.from_env({"API_KEYS_FILE": str(file), "API_KEYS": KEYS})
    with pytest.raises(InvalidSetting, match=r"^API_KEYS_FILE='/nowhere': it cannot be read"):
        ApiSettings.from_env({"API_KEYS_FILE": "/nowhere"})


# Keys


def test_a_new_key_is_fresh_and_can_be_found_by_scanners() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    for key in made:
        prefix, letters = key[: len("schedkey_")], key[len("schedkey_") :]
        assert prefix == "schedkey_"
        assert len(letters) == 43 and letters.isascii() and letters.isalnum()
    assert len(api_keys._LETTERS) ** api_keys.KEY_CHARS >= 2**256


@pytest.mark.parametrize("place", range(4))
def test_all_keys_are_compared_in_full_whichever_it_is(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac_compare(one, other)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = [new_key() for _ in range(3)]
    known = parsed_keys("API_KEYS", ",".join(key_entry("a", Scope.READ, key) for key in keys))
    found = found_key(known, [*keys, WRONG][place])
    assert compared == [(32, 32)] * 3
    assert found == (known[place] if place < 3 else None)


@pytest.mark.parametrize("presented", ["", "é", WRITE[:-1], WRITE + "x", WRITE.lower(), OTHER])
def test_another_key_is_not_found(presented: str) -> None:
    known = parsed_keys("API_KEYS", f"a:read:{HASH},{key_entry('b', Scope.WRITE, WRITE)}")
    assert found_key(known, presented) is None
    assert found_key(known, READ) == known[0]


def test_a_scope() -> None:
    assert Scope.WRITE.includes(Scope.READ) and Scope.WRITE.includes(Scope.WRITE)
    assert Scope.READ.includes(Scope.READ) and not Scope.READ.includes(Scope.WRITE)


def test_a_key_shows_no_hash() -> None:
    shown = repr(ApiKey("a", Scope.READ, bytes.fromhex(HASH)))
    assert "a" in shown and "digest" not in shown

"""`python -m deploy key`."""

import pytest

from chalicelib.api.keys import Scope, found_key, parsed_keys
from deploy.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "scope"),
    [([], Scope.READ), (["--scope", "read"], Scope.READ), (["--scope=write"], Scope.WRITE)],
)
def test_a_key_is_made_and_its_entry_is_of_it(
    capsys: pytest.CaptureFixture[str], arguments: list[str], scope: Scope
) -> None:
    assert main(["key", "orders.eu-1", *arguments]) == 0
    key, entry = (line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines())
    known = parsed_keys("API_KEYS", entry)
    assert found_key(known, key) == known[0]
    assert (known[0].name, known[0].scope) == ("orders.eu-1", scope)
    assert key not in entry
    main(["key", "orders.eu-1"])
    assert key not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: name"),
        (["a b"], "'a b': expected 1 to 40 of A-Z"),
        (["a:b"], "'a:b': expected"),
        (["x" * 41], "expected 1 to 40"),
        (["a", "--scope", "admin"], "admin"),
    ],
)
def test_what_cannot_be_a_key_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["key", *arguments])
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "schedkey_" not in shown.out

"""One variable of the environment at a time."""

import pytest

from chalicelib import env
from chalicelib.errors import InvalidSetting


@pytest.mark.parametrize("unset", [{}, {"N": ""}])
def test_what_is_unset_has_its_default(unset: dict[str, str]) -> None:
    assert env.integer(unset, "N", 7, 1, 9) == 7
    assert env.seconds(unset, "N", 0.5, 0.1, 9) == 0.5
    assert env.switch(unset, "N")


def test_bounds_are_within() -> None:
    assert [env.integer({"N": text}, "N", 7, 1, 9) for text in ("1", "9")] == [1, 9]
    assert [env.seconds({"N": text}, "N", 1.0, 0.1, 9) for text in ("0.1", "9")] == [0.1, 9.0]


@pytest.mark.parametrize("text", ["0", "10", "-1", "+1", "1.5", "ten", "٣", " 1"])
def test_no_integer(text: str) -> None:
    with pytest.raises(InvalidSetting) as error:
        env.integer({"N": text}, "N", 7, 1, 9)
    assert str(error.value) == f"N={text!r}: expected an integer from 1 to 9"


@pytest.mark.parametrize("text", ["0", "9.1", "-1", "often", "nan", "inf"])
def test_no_seconds(text: str) -> None:
    with pytest.raises(InvalidSetting) as error:
        env.seconds({"N": text}, "N", 1.0, 0.1, 9)
    assert str(error.value) == f"N={text!r}: expected seconds from 0.1 to 9"


def test_switch_is_on_or_off() -> None:
    assert [env.switch({"N": text}, "N") for text in ("on", "off")] == [True, False]
    with pytest.raises(InvalidSetting, match=r"^N='yes': expected on or off$"):
        env.switch({"N": "yes"}, "N")


def test_url_is_given_back_as_it_is() -> None:
    for text in ("http://a", "https://a:1/", "http://[::1]:8000/x"):
        assert env.url("N", text) == text


@pytest.mark.parametrize("text", ["", "a:1", "ftp://a", "http://", "http://a:0", "http://a:99999"])
def test_no_url(text: str) -> None:
    with pytest.raises(InvalidSetting) as error:
        env.url("N", text, "a URL")
    assert str(error.value) == f"N={text!r}: expected a URL"

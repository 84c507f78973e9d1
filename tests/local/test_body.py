"""The body of a request, from its bytes alone."""

import io
from email.message import Message

import pytest

from chalicelib.api.responses import HttpError
from local.body import READ_OFF_BYTES_MAX, Body


def body(data: bytes, **headers: str) -> Body:
    head = Message()
    for name, value in headers.items():
        head[name.replace("_", "-")] = value
    return Body(head, io.BytesIO(data), bytes_max=10)


def test_without_a_length_there_is_none() -> None:
    assert list(body(b"next").pieces()) == []


def test_no_more_than_the_length_is_read() -> None:
    assert b"".join(body(b"abcnext", Content_Length="3").pieces()) == b"abc"


def test_chunks_are_put_together() -> None:
    data = b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\nnext"
    assert b"".join(body(data, Transfer_Encoding=" Chunked ").pieces()) == b"abcde"


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"ab", {"Content_Length": "3"}, 400),
        (b"", {"Content_Length": "3x"}, 400),
        (b"", {"Content_Length": "3", "Transfer_Encoding": "chunked"}, 400),
        (b"", {"Content_Length": str(READ_OFF_BYTES_MAX + 1)}, 413),
        (b"", {"Transfer_Encoding": "gzip"}, 501),
        (b"2\r\nabc\r\n", {"Transfer_Encoding": "chunked"}, 400),
        (b"x\r\n", {"Transfer_Encoding": "chunked"}, 400),
        (b"2", {"Transfer_Encoding": "chunked"}, 400),
    ],
)
def test_what_is_no_body_is_refused(data: bytes, headers: dict[str, str], status: int) -> None:
    with pytest.raises(HttpError) as error:
        list(body(data, **headers).pieces())
    assert error.value.response().status_code == status

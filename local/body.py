"""The body of a request, as its head announces it: by its length, or in chunks."""

import re
from collections.abc import Iterator
from email.message import Message
from http import HTTPStatus
from io import BufferedIOBase

from chalicelib.api.request import too_large
from chalicelib.api.responses import HttpError
from chalicelib.errors import shortened
from local.refusals import malformed

READ_OFF_BYTES_MAX = 64 * 1024 * 1024
"""So much of an over-long body is read, so that its sender reads our answer and no reset."""
PIECE_BYTES = 65_536
LINE_BYTES_MAX = 4096

LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class Body:
    """Reads one body. bytes_max: told where the body is longer than is read at all."""

    def __init__(self, headers: Message, stream: BufferedIOBase, bytes_max: int) -> None:
        self._headers = headers
        self._stream = stream
        self._bytes_max = bytes_max

    def pieces(self) -> Iterator[bytes]:
        """All of it. Raises HttpError, and what the stream raises."""
        encodings = self._headers.get_all("Transfer-Encoding", [])
        if not encodings:
            return self._counted_pieces(self._length())
        if "Content-Length" in self._headers:
            got = ", ".join(self._lengths())
            raise malformed("Content-Length", got, "no Transfer-Encoding beside it")
        if [encoding.strip().lower() for encoding in encodings] != ["chunked"]:
            got = ", ".join(encodings)
            raise HttpError(
                HTTPStatus.NOT_IMPLEMENTED, f"Transfer-Encoding {shortened(got)!r} is not known."
            )
        return self._chunks()

    def _lengths(self) -> list[str]:
        """Each value that the head gives, once."""
        return sorted(set(self._headers.get_all("Content-Length", ["0"])))

    def _length(self) -> int:
        length = ", ".join(self._lengths())
        if not LENGTH.fullmatch(length):
            raise malformed("Content-Length", length, "one number of bytes")
        return int(length)

    def _counted_pieces(self, size: int) -> Iterator[bytes]:
        if size > READ_OFF_BYTES_MAX:
            raise too_large(self._bytes_max)
        while size:
            piece = self._stream.read(min(size, PIECE_BYTES))
            if not piece:
                raise malformed("body", None, f"{size} bytes more")
            size -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while size := self._chunk_size():
            yield from self._counted_pieces(size)
            if self._line() != b"":
                raise malformed("body", None, "a chunk of the size it tells")
        while self._line():
            pass  # Trailers.

    def _chunk_size(self) -> int:
        line = self._line()
        found = _CHUNK_SIZE.fullmatch(line)
        if found is None:
            raise malformed("body", repr(line)[2:-1], "the size of a chunk")
        return int(found[1], 16)

    def _line(self) -> bytes:
        line = self._stream.readline(LINE_BYTES_MAX)
        if not line.endswith(b"\n"):
            raise malformed("body", None, "a line of the chunked encoding")
        return line.rstrip(b"\r\n")

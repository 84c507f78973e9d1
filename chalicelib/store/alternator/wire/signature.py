"""Signature Version 4 of requests to one host, made of what changes with each request only."""

import hashlib
import hmac
from datetime import UTC, datetime

API = "DynamoDB_20120810"
CONTENT_TYPE = "application/x-amz-json-1.0"
SIGNED = "content-type;host;x-amz-date;x-amz-target"


class Signer:
    """Makes whole signed HTTP requests. The key changes with the date, the time each second."""

    def __init__(self, host: str, region: str, user: str, secret: str) -> None:
        self._host, self._region, self._user, self._secret = host, region, user, secret
        self._now_s, self._scope = -1, ""

    def message(self, action: str, body: bytes, now_s: int) -> bytes:
        """An HTTP request, head and body. now_s: seconds since the epoch."""
        if now_s != self._now_s:
            self._tell_time(now_s)
        payload = hashlib.sha256(body).hexdigest()
        canonical = (
            f"POST\n/\n\ncontent-type:{CONTENT_TYPE}\nhost:{self._host}\nx-amz-date:{self._time}\n"
            f"x-amz-target:{API}.{action}\n\n{SIGNED}\n{payload}"
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self._time}\n{self._scope}\n{digest}"
        signature = hmac.digest(self._key, text.encode(), "sha256").hex()
        head = (
            f"POST / HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: {CONTENT_TYPE}\r\n"
            f"X-Amz-Date: {self._time}\r\nX-Amz-Target: {API}.{action}\r\n"
            f"Authorization: AWS4-HMAC-SHA256 Credential={self._user}/{self._scope},"
            f" SignedHeaders={SIGNED}, Signature={signature}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _tell_time(self, now_s: int) -> None:
        self._now_s = now_s
        self._time = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{self._time[:8]}/{self._region}/dynamodb/aws4_request"
        if scope == self._scope:
            return
        self._scope = scope
        self._key = f"AWS4{self._secret}".encode()
        for part in self._scope.split("/"):
            self._key = hmac.digest(self._key, part.encode(), "sha256")

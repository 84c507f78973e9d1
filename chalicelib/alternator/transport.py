"""Signed requests to the nodes of the store, asynchronous, one try a call."""

import asyncio
import json
import ssl
import zlib
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from aiodynamo import errors as aioerrors
from aiodynamo.client import Client
from aiodynamo.credentials import Key, StaticCredentials
from aiodynamo.http.types import Request as HttpRequest
from aiodynamo.http.types import RequestFailed, Response
from aiodynamo.models import StaticDelayRetry
from yarl import URL

from chalicelib.alternator import outcome
from chalicelib.alternator.outcome import Unanswered
from chalicelib.alternator.requests import JsonObject, Request
from chalicelib.clock import Clock, ClockOffset
from chalicelib.config import Settings
from chalicelib.errors import StoreUnavailable

CONNECT_TIMEOUT_S = 1.0
ONE_TRY = StaticDelayRetry(time_limit_secs=-1)


@dataclass(frozen=True, slots=True)
class Http:
    """aiodynamo's way out: sends the Host that was signed, and reads the store's clock."""

    session: aiohttp.ClientSession
    host: str
    clock: Clock
    offset: ClockOffset
    last_date: list[str] = field(default_factory=lambda: [""])

    async def __call__(self, request: HttpRequest) -> Response:
        headers = {"Host": self.host, **(request.headers or {})}
        sent_ms = self.clock.now_ms()
        try:
            async with self.session.post(
                request.url, headers=headers, data=request.body
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise RequestFailed(error) from error
        self._note_date(response.headers.get("Date", ""), sent_ms)
        return Response(response.status, body)

    def _note_date(self, date: str, sent_ms: int) -> None:
        if not date or date == self.last_date[0]:
            return
        self.last_date[0] = date
        try:
            theirs_ms = int(parsedate_to_datetime(date).timestamp() * 1000)
        except ValueError:
            return
        self.offset.note(theirs_ms, 1000, sent_ms, self.clock.now_ms())


class Transport:
    """One client a node. Writes of one key prefer one node; others go around."""

    def __init__(self, session: aiohttp.ClientSession, settings: Settings, clock: Clock) -> None:
        self.offset = ClockOffset()
        self._session = session
        self._turns = count()
        credentials = StaticCredentials(Key(settings.user, settings.secret))
        self._clients = [
            Client(
                http=Http(session, urlsplit(endpoint).hostname or "", clock, self.offset),
                credentials=credentials,
                region=settings.region,
                endpoint=URL(endpoint).with_path("/"),
                throttle_config=ONE_TRY,
            )
            for endpoint in settings.endpoints
        ]

    @classmethod
    def open(cls, settings: Settings, clock: Clock) -> Self:
        """Call inside a running event loop; close() ends it."""
        context = ssl.create_default_context(cafile=settings.ca_file) if settings.ca_file else True
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=2 * settings.batch_size, ssl=context),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            json_serialize=json.dumps,
        )
        return cls(session, settings, clock)

    async def close(self) -> None:
        await self._session.close()

    async def send(
        self, request: Request, *, key: str | None, attempt: int, timeout_s: float
    ) -> JsonObject:
        """Raises ConditionFailed, Unanswered, StoreMismatch or StoreUnavailable.

        key: partition key of a conditional write. attempt: each further one takes another node.
        """
        turn = next(self._turns) if key is None else zlib.crc32(key.encode()) + attempt
        client = self._clients[turn % len(self._clients)]
        try:
            async with asyncio.timeout(timeout_s):
                return await client.send_request(action=request.action, payload=request.body)
        except TimeoutError as error:
            raise Unanswered(f"no answer within {timeout_s:.1f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unanswered(repr(error)) from error
        except aioerrors.UnknownError as error:
            raise _failure(error.body, error.status) from error
        except (aioerrors.InternalDynamoError, aioerrors.ServiceUnavailable) as error:
            raise Unanswered(repr(error)) from error
        except aioerrors.AIODynamoError as error:
            raise _failure(error.args[0] if error.args else {}, 400) from error
        except ValueError as error:
            raise Unanswered(f"an answer that is no JSON: {error}") from error


def _failure(body: Any, status: int) -> Exception:
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        except ValueError:
            body = {"message": body[:200].decode(errors="replace")}
    if not isinstance(body, dict):
        return StoreUnavailable(f"the store answered {status} with {body!r}")
    code = str(body.get("__type", "")).split("#")[-1]
    message = str(body.get("message") or body.get("Message") or "")
    return outcome.failure(code, message, status, body.get("Item"))

"""What became of a request, and how an unknown outcome is resolved.

A 5xx, a reset or a timeout on a conditional write means: applied, not applied, or applied later.
The identical request is sent again; refused, the item that stands there tells by its token
whether it was this very write. That is sound because every such write makes its own condition
false and carries a token of its own (the two writes of a claim after a lost lease share one).
"""

from collections.abc import Iterator
from random import Random

from chalicelib.errors import SchedulerError, StoreMismatch, StoreUnavailable
from chalicelib.store.alternator.requests import Item, decode_task
from chalicelib.task import Task

UNAUTHORIZED = frozenset({
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "UnrecognizedClientException",
})  # fmt: skip
DENIED = "AccessDeniedException"
THROTTLED = frozenset({
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
})  # fmt: skip


class ConditionFailed(Exception):
    """The condition was false. item: what stands there, None if nothing does."""

    def __init__(self, item: Item | None) -> None:
        super().__init__("condition failed")
        self.item = item

    def task(self) -> Task | None:
        """The item of a task's record, read. Raises UnreadableTask."""
        return decode_task(self.item) if self.item else None


class Unanswered(Exception):
    """The outcome is unknown, or the request was refused unseen: it may be sent again."""


class Unsent(Unanswered):
    """It was not sent: nothing can have come of it."""


class Throttled(Unanswered):
    """Refused unseen, since the store is asked too much."""


def failure(code: str, message: str, status: int, item: Item | None = None) -> Exception:
    """The exception for an error answer of the store."""
    if code == "ConditionalCheckFailedException":
        return ConditionFailed(item)
    if code in THROTTLED:
        return Throttled(f"{status} {code}: {message}")
    if status >= 500:
        return Unanswered(f"{status} {code}: {message}")
    if code == "ResourceNotFoundException":
        return StoreMismatch(f"a table is missing: {message}", reason=code)
    if code in UNAUTHORIZED:
        return refused(code, message)
    if code == DENIED:
        return denied(code, message)
    return SchedulerError(f"the store refused a request: {code}: {message}", reason=code)


def refused(code: str, message: str) -> StoreUnavailable:
    """Our credentials are wrong: to ask again would not help."""
    return StoreUnavailable(
        "the store refuses our credentials, ALTERNATOR_USER and ALTERNATOR_SECRET: "
        f"{code}: {message}",
        reason=code,
    )


def denied(code: str, message: str) -> StoreUnavailable:
    """A permission is missing. The message of the store tells which, and most often whose; once
    granted, it can take 10 s until the store knows.
    """
    return StoreUnavailable(
        f"the store's role may not do this: {message} ({code}; ALTERNATOR_USER names the role)",
        reason=code,
    )


def is_refusal(error: SchedulerError) -> bool:
    """Whether our credentials were refused. A missing permission is not that: who waits will
    see it granted.
    """
    return error.details.get("reason") in UNAUTHORIZED


def is_denial(error: SchedulerError) -> bool:
    """Whether a permission is missing."""
    return error.details.get("reason") == DENIED


def pauses_s(rng: Random) -> Iterator[float]:
    """Waits between tries: 20 ms, doubling to 2 s, with full jitter above half."""
    pause = 0.02
    while True:
        yield pause * rng.uniform(0.5, 1.0)
        pause = min(2.0, pause * 2)

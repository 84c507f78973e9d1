"""The request id: it stands in the answer to a request, in the record of the task that the request
created, and in the log lines of both: those of the API and those of the task's attempts."""

from contextvars import ContextVar

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is answered, or whose task is run, here and now. Log lines have it."""

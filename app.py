"""Entry point of Lambda and of `chalice local`: the views and the tick. Wiring only."""

import contextvars
import functools
import os
import threading
import uuid
from typing import Any, cast

from chalice.app import Chalice, CloudWatchEvent, IAMAuthorizer, Rate, Request, Response

from chalicelib import log
from chalicelib.api import endpoints
from chalicelib.api.access import needed_scope
from chalicelib.api.endpoints import Api
from chalicelib.api.failures import errors_as_responses, replace_chalice_errors
from chalicelib.api.middleware import Middleware
from chalicelib.api.page import FILES, page
from chalicelib.api.server_timing import server_timing
from chalicelib.api.settings import ApiSettings, Auth, is_on_lambda
from chalicelib.clock import SystemClock
from chalicelib.config import Settings
from chalicelib.store.clock import StoreClock
from chalicelib.wakeups.sender import Sender

app = Chalice(app_name="scheduler", configure_logs=False)
api_settings = functools.cache(ApiSettings.from_env)
middleware = Middleware(app.routes, lambda: api_settings())
app.register_middleware(server_timing, "http")
app.register_middleware(middleware, "http")
app.register_middleware(replace_chalice_errors, "http")

ANY: list[str] = []
"""Chalice checks no content type: the views that take a body do."""

if is_on_lambda(os.environ):
    log.set_up()
if os.environ.get("AWS_CHALICE_CLI_MODE") == "true":
    from local import gateway  # It needs chalice.local; neither of them is deployed.

    gateway.patch_chalice_local(middleware)

_making = threading.Lock()


@functools.cache
def _made() -> Api:
    from chalicelib.store.alternator.store import AlternatorTaskStore

    clock = StoreClock(SystemClock())
    settings = Settings.from_env()
    store = AlternatorTaskStore.connect(settings, clock)
    sender = Sender.of(settings, clock)
    return Api(store, clock, lambda: str(uuid.uuid4()), settings, sender, api_settings())


def service() -> Api:
    """The one Api of this process, made and verified when it is first needed."""
    with _making:  # Nothing that it starts belongs to the request that came first.
        made = contextvars.Context().run(_made)
    made.readiness.verify_once()
    return made


def request() -> Request:
    assert app.current_request is not None
    return app.current_request


@app.route("/task", methods=["POST"], content_types=ANY)
@errors_as_responses
def create_task() -> Response:
    return service().create(request())


@app.route("/task", methods=["GET"], content_types=ANY)
@errors_as_responses
def list_tasks() -> Response:
    return service().list(request())


@app.route("/tasks", methods=["POST"], content_types=ANY)
@errors_as_responses
def create_tasks() -> Response:
    return service().create_many(request())


@app.route("/task/{id}", methods=["GET"], content_types=ANY)
@errors_as_responses
def get_task(id: str) -> Response:
    return service().get(id)


@app.route("/task/{id}", methods=["DELETE"], content_types=ANY)
@errors_as_responses
def delete_task(id: str) -> Response:
    return service().delete(id)


@app.route("/task/{id}/retry", methods=["POST"], content_types=ANY)
@errors_as_responses
def retry_task(id: str) -> Response:
    return service().retry(id, request())


@app.route("/task/{id}/attempts", methods=["GET"], content_types=ANY)
@errors_as_responses
def get_attempts(id: str) -> Response:
    return service().attempts(id)


@app.route("/task/{id}/explain", methods=["GET"], content_types=ANY)
@errors_as_responses
def explain_task(id: str) -> Response:
    return service().explain(id)


@app.route("/stats", methods=["GET"], content_types=ANY)
@errors_as_responses
def get_stats() -> Response:
    return service().stats(request())


@app.route("/health", methods=["GET"], content_types=ANY)
@errors_as_responses
def health() -> Response:
    return endpoints.health()


@app.route("/ready", methods=["GET"], content_types=ANY)
@errors_as_responses
def ready() -> Response:
    return service().ready()


@app.route("/openapi.json", methods=["GET"], content_types=ANY)
@errors_as_responses
def openapi() -> Response:
    return endpoints.openapi()


@errors_as_responses
def page_file() -> Response:
    return page(request())


for path in FILES:
    app.route(path, methods=["GET"], content_types=ANY, name="page_file")(page_file)


@errors_as_responses
def preflight(**_: str) -> Response:
    return endpoints.preflight(app.routes[request().path])


def add_preflights() -> None:
    """Have API Gateway pass on what browsers ask first; without CORS_ORIGINS, they ask in vain."""
    for path in list(app.routes):
        app.route(path, methods=["OPTIONS"], content_types=ANY, name="preflight")(preflight)


def add_iam() -> None:
    """Have API Gateway check who calls, wherever a key would be needed."""
    for path, methods in app.routes.items():
        for method, view in methods.items():
            if needed_scope(method, path) is not None:
                view.authorizer = IAMAuthorizer()


if os.environ.get("CORS_ORIGINS"):
    add_preflights()
if os.environ.get("API_AUTH") == Auth.IAM:
    add_iam()


@app.schedule(Rate(1, unit=Rate.MINUTES), name="tick")
def tick(event: CloudWatchEvent) -> Any:
    """Every minute: run what is due and sweep, until shortly before the function's deadline."""
    from chalicelib.processing.tick import run

    context = cast(Any, event.context)
    tells_metrics = is_on_lambda(os.environ)
    return run(context.get_remaining_time_in_millis, tells_metrics=tells_metrics)

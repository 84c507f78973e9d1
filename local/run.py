"""A run: engine, tables, API, worker and tick, in this order; and the opposite one at the end."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from chalicelib.api.settings import ApiSettings
from chalicelib.clock import Clock
from chalicelib.config import Settings
from chalicelib.errors import InvalidSetting, StoreUnavailable
from chalicelib.store.alternator import tables
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.wire.client import Client
from local import engine
from local.engine import Engine
from local.processes import Program, Signals, StartFailed, Stopping, Supervisor, say
from local.settings import LocalSettings
from local.ticker import ticking

START_S = 60.0
WORKER_GRACE_S = 8.0
"""Workers and ticks promise to end within 7 s."""
API_GRACE_S = 3.0


def run(settings: LocalSettings, clock: Clock) -> None:
    """Run the whole service until SIGINT, SIGTERM or SIGHUP.

    Raises InvalidSetting or StartFailed if it cannot be started; nothing is left running then.
    """
    Settings.from_env()
    ApiSettings.from_env()
    engine.must_be_free("PORT", settings.port)
    signals = Signals(clock)
    signals.install()
    with suppress(Stopping), _data_is_ours(settings):
        _run(settings, signals, clock)


def _run(settings: LocalSettings, signals: Signals, clock: Clock) -> None:
    supervisor = Supervisor(signals, clock)
    store_engine = _engine(settings, supervisor, signals, clock)
    try:
        store_engine.start()
        _start(settings, store_engine.url, supervisor, clock)
        supervisor.keep()
    finally:
        if signals.stopping:
            say("ending ...")
        supervisor.end()
        store_engine.stop()


def _engine(
    settings: LocalSettings, supervisor: Supervisor, signals: Signals, clock: Clock
) -> Engine:
    """The one that ENGINE names, ready to start. Raises StartFailed if it is not to be had."""
    if settings.engine_is_elsewhere:
        return engine.Elsewhere(settings.engine)
    if settings.engine in ("auto", "docker"):
        from local import scylla  # Half a second that a run without Docker does not owe.

        try:
            client = scylla.docker_with_image(settings.scylla_image, signals, clock)
            return scylla.Scylla(client, settings, supervisor, signals, clock)
        except scylla.NoDocker as missing:
            if settings.engine == "docker":
                raise StartFailed(f"ENGINE=docker: {missing}") from missing
            say(f"{missing}: using the embedded engine")
    return engine.Embedded(settings, supervisor, clock)


def create_tables(settings: Settings, clock: Clock) -> None:
    """Create the tables that are missing and verify all. Raises StoreMismatch or StartFailed."""
    with closing(Client.connect(settings, clock)) as client:
        _create_tables(client, settings.table_prefix)


def _start(settings: LocalSettings, engine_url: str, supervisor: Supervisor, clock: Clock) -> None:
    env = {**os.environ, "ALTERNATOR_ENDPOINTS": engine_url}
    shared = Settings.from_env(env)
    prefix = shared.table_prefix
    with closing(Client.connect(shared, clock)) as client:
        _create_tables(client, prefix)
        store, started_ms = AlternatorTaskStore(client, clock, prefix=prefix), clock.now_ms()
        supervisor.start(_api(settings, env, clock))
        supervisor.start(*_processors(settings, env, clock))
        supervisor.wait_until(
            lambda: engine.fetch(f"{settings.url}/ready") is not None, "the API", START_S
        )
        supervisor.wait_until(
            lambda: _live_workers(store, started_ms) >= settings.workers,
            "the worker",
            START_S,
        )
    print(f"ready: {settings.url}", file=sys.stderr, flush=True)


def _create_tables(client: Client, prefix: str) -> None:
    try:
        tables.create(client, prefix)
        tables.verify(client, prefix)
        tables.warm_up(client, prefix)
    except StoreUnavailable as error:
        raise StartFailed(f"the tables cannot be made ready: {error}") from error


def _api(settings: LocalSettings, env: dict[str, str], clock: Clock) -> Program:
    chalice = "import sys; from chalice.cli import main; sys.exit(main())"
    address = ["--host", "127.0.0.1", "--port", str(settings.port)]
    command = [sys.executable, "-c", chalice, "local", "--no-autoreload", *address]
    return Program("API", command, env, clock, is_apart=True, grace_s=API_GRACE_S)


def _processors(settings: LocalSettings, env: dict[str, str], clock: Clock) -> Iterator[Program]:
    if settings.workers:
        command = [sys.executable, "-m", "worker", "--processes", str(settings.workers)]
        yield Program("worker", command, env, clock, prints_tasks=True, grace_s=WORKER_GRACE_S)
    if settings.tick:
        yield ticking(env, clock)


def _live_workers(store: AlternatorTaskStore, since_ms: int) -> int:
    """How many workers have written a heartbeat since."""
    try:
        heartbeats = store.heartbeats()
    except StoreUnavailable:
        return 0
    return sum(
        heartbeat.kind == "worker" and heartbeat.written_ms >= since_ms for heartbeat in heartbeats
    )


@contextmanager
def _data_is_ours(settings: LocalSettings) -> Iterator[None]:
    """Hold the lock of the folder with the tasks. Raises InvalidSetting if that cannot be."""
    if settings.engine_is_elsewhere:
        yield
        return
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        file = (settings.data / "lock").open("w")
    except OSError as error:
        raise InvalidSetting(
            f"DATA={settings.data}: it cannot be used ({error.strerror})"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidSetting(f"DATA={settings.data}: another run uses it") from error
        yield

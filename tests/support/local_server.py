"""The server of `chalice local`, as mended, in a thread of the tests."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from chalice import local
from chalice.config import Config

import app as entry
from chalicelib import log
from chalicelib.api.endpoints import Api
from chalicelib.clock import SystemClock
from chalicelib.store.memory import MemoryStore, Tables
from local import gateway


@contextmanager
def served(tables: Tables | None = None) -> Iterator[int]:
    """The app on a store in memory, at a port of 127.0.0.1."""
    store = MemoryStore(tables or Tables())
    service = Api(store, SystemClock(), new_id=lambda: str(uuid.uuid4()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "service", lambda: service)
        patch.setattr(local, "LocalDevServer", local.LocalDevServer)
        patch.setattr(log, "set_up_apart", lambda clock: None)
        gateway.patch_chalice_local(entry.middleware)
        server = _server().server
        thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        server.server_close()
        thread.join()


def _server() -> local.LocalDevServer:
    config = Config.create(lambda_timeout=29)
    if isinstance(entry.app, local.LocalChalice):  # Chalice can make an app local only once.
        return local.LocalDevServer(entry.app, config, "127.0.0.1", 0)
    return local.create_local_server(entry.app, config, "127.0.0.1", 0)

"""On a real ScyllaDB cluster, which the environment names as it does for `python -m deploy`.

Tables get a prefix of their own and are dropped at the end; so is the role.
"""

import argparse
import os
import uuid
from collections.abc import Iterator

import pytest

from chalicelib.clock import SystemClock, pause
from chalicelib.store.alternator.requests import Request
from chalicelib.store.alternator.store import AlternatorTaskStore
from chalicelib.store.alternator.tables import TABLES
from chalicelib.store.alternator.wire.client import Client
from deploy import doctor, plan, provision
from deploy import options as deploy_options
from deploy.cql import DriverCql
from deploy.nodes import Nodes
from deploy.options import Options
from tests.support.fakes import Ids, new_task

pytestmark = [pytest.mark.scylla, pytest.mark.wall_clock]


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[Options]:
    """NODES in the environment says how many there are; 3 if it does not."""
    parser = argparse.ArgumentParser()
    deploy_options.add_to(parser)
    mark = uuid.uuid4().hex[:8]
    words = ["--nodes", os.environ.get("NODES", "3"), "--role", f"scheduler_{mark}"]
    monkeypatch.setenv("TABLE_PREFIX", f"test_{mark}_")
    options = Options.of(parser.parse_args(words))
    yield options
    client = Client.connect(options.settings, SystemClock())
    for table in TABLES:
        client.decide(Request("DeleteTable", {"TableName": options.prefix + table.name}))
    client.close()
    cql = DriverCql.connect(options)
    cql.rows(f"DROP ROLE IF EXISTS {plan.quoted(str(options.role))}")
    cql.close()


def test_provision_twice_then_nothing_is_wrong(options: Options) -> None:
    clock = SystemClock()
    nodes = Nodes(options.settings, clock)
    client = Client.connect(options.settings, clock)
    cql = DriverCql.connect(options)
    said: list[str] = []
    for _ in range(2):
        said.clear()
        provision.run(options, nodes, lambda: client, lambda: cql, pause, said.append)
    assert not [line for line in said if "created" in line or "granted" in line or "->" in line]
    findings = list(doctor.examine(options, nodes, lambda: client, lambda: cql))
    assert [finding for finding in findings if finding.is_wrong] == []
    store = AlternatorTaskStore(client, clock, prefix=options.prefix)
    task = store.create(new_task(Ids(), now_ms=clock.now_ms(), send_ts_ms=clock.now_ms() + 60_000))
    assert store.get(task.id) == task
    store.delete(task.id, now_ms=clock.now_ms(), token=str(uuid.uuid4()))
    client.close()
    cql.close()

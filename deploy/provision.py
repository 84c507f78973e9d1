"""Makes a cluster fit for the service. What is as it should be is left alone."""

import itertools
import os
import secrets
from collections.abc import Callable, Mapping, Sequence

from chalicelib.clock import Sleep
from chalicelib.errors import SchedulerError, StoreMismatch, StoreUnavailable
from chalicelib.store.alternator import tables
from chalicelib.store.alternator.tables import TABLES, Table
from chalicelib.store.alternator.wire.client import Client
from deploy import plan
from deploy.cql import Cql, Row
from deploy.nodes import Nodes
from deploy.options import Options

Say = Callable[[str], None]


class Unprovisioned(SchedulerError):
    """The cluster cannot be made fit."""


def dry_run(options: Options, say: Say) -> None:
    """Say each request and statement with its reason; send nothing."""
    for number, step in enumerate(plan.steps(options.prefix, options.nodes, options.role), 1):
        say(f"{number:2}. {step.kind}: {step.text}")
        say(f"    -- {step.why}")
    tasks = plan.place(options.prefix, TABLES[0])
    say(f"not touched: the options of {tasks}")
    say("    -- a task that came back from a dropped tombstone would run again: it keeps 10 days")


def make_tables(options: Options, client: Client, say: Say) -> None:
    """Create, verify and warm up. All nodes must be there: see Nodes.wait_for."""
    try:
        created = tables.create(client, options.prefix)
    except StoreUnavailable as error:
        raise StoreUnavailable(f"the tables cannot be created: {error}") from error
    tables.verify(client, options.prefix)
    tables.warm_up(client, options.prefix)
    for table in TABLES:
        done = "created" if table in created else "there"
        say(f"table {options.prefix}{table.name}: {done}, keys and {table.isolation} verified")


def by_cql(options: Options, cql: Cql, say: Say) -> None:
    """Verify what only CQL tells, then options, role and grants. Raises Unprovisioned first."""
    _verify_replication(options, cql)
    say(f"replication: {plan.factor_for(options.nodes)} on each table, racks as they should be")
    for table in plan.INDEXES:
        found = plan.options_of(described(cql, plan.describe(options.prefix, table)))
        if found == plan.WANTED:
            say(f"options of {options.prefix}{table.name}: there")
            continue
        cql.rows(plan.alter(options.prefix, table))
        say(f"options of {options.prefix}{table.name}: {found} -> {plan.WANTED}")
    if options.role is None:
        return
    _make_role(options, options.role, cql, say)
    if options.secret_file is not None:
        _write_secret(options, options.role, cql, say)


def _verify_replication(options: Options, cql: Cql) -> None:
    wanted = plan.factor_for(options.nodes)
    for table in TABLES:
        factors = replicas(options, cql, table)
        if set(factors.values()) != {wanted}:
            raise StoreMismatch(
                f"table {options.prefix}{table.name} has replicas {factors}, expected {wanted} in"
                " each data center: it was created when fewer nodes were known. Drop it while it"
                " is empty, or alter its keyspace and repair, then provision again"
            )
    for center, racks in racks_by_center(cql).items():
        if wanted == plan.FACTOR and len(racks) != wanted:
            raise Unprovisioned(
                f"data center {center} has {len(racks)} racks, expected {wanted}: the loss of one"
                " rack would take more than one replica. Give each node its rack before it joins"
            )


def replicas(options: Options, cql: Cql, table: Table) -> Mapping[str, int]:
    """How often a table is kept, by data center; empty if there is no such table."""
    rows = cql.rows(plan.replication(options.prefix, table))
    return plan.factors_of(rows[0]["replication"]) if rows else {}


def racks_by_center(cql: Cql) -> Mapping[str, Sequence[str]]:
    """The racks of each data center, both sorted."""
    # Both of one node: each leaves itself, and nobody else, out of its peers.
    node = cql.nodes()[0]
    rows = [*cql.rows(plan.topology(), node=node), *cql.rows(plan.peers(), node=node)]
    places = sorted({(str(row["data_center"]), str(row["rack"])) for row in rows})
    return {
        center: [rack for _, rack in group]
        for center, group in itertools.groupby(places, key=lambda place: place[0])
    }


def described(cql: Cql, statement: str) -> str:
    """The CREATE statement of a table."""
    return " ".join(str(row.get("create_statement") or "") for row in cql.rows(statement))


def granted(rows: list[Row]) -> Mapping[str, set[str]]:
    """Permissions by resource."""
    return {row["resource"]: set(row["permissions"] or ()) for row in rows}


def _make_role(options: Options, role: str, cql: Cql, say: Say) -> None:
    found = cql.rows(plan.role_exists(role))
    if not found:
        cql.rows(plan.create_role(role, secrets.token_urlsafe(32)))
        say(f"role {role}: created")
    elif found[0]["is_superuser"] or not found[0]["can_login"]:
        what = "a superuser" if found[0]["is_superuser"] else "not allowed to log in"
        raise Unprovisioned(
            f"role {role} is {what}: it belongs to something else; choose another by --role"
        )
    else:
        say(f"role {role}: there")
    has = granted(list(cql.rows(plan.permissions(role))))
    for table in TABLES:
        there = has.get(plan.resource(options.prefix, table), set())
        lacking = [one for one in plan.PERMISSIONS if one not in there]
        for permission in lacking:
            cql.rows(plan.grant(options.prefix, table, role, permission))
        done = f"granted {', '.join(lacking)}" if lacking else "there"
        say(f"grants on {options.prefix}{table.name}: {done}")


def _write_secret(options: Options, role: str, cql: Cql, say: Say) -> None:
    rows = cql.rows(plan.secret(role))
    secret = rows[0]["salted_hash"] if rows else None
    if not secret:
        raise Unprovisioned(f"role {role} has no salted_hash: is authentication on?")
    assert options.secret_file is not None
    try:
        # A file that is there may be open to others: it is replaced, never written into.
        options.secret_file.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        descriptor = os.open(options.secret_file, flags, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secret}\n")
    except OSError as error:
        raise Unprovisioned(
            f"--secret-file {options.secret_file}: it cannot be written ({error.strerror})"
        ) from error
    say(f"secret of {role}: written, for the owner of the file only; the service is told")
    say(f"ALTERNATOR_USER={role}")
    say(f"ALTERNATOR_SECRET_FILE={options.secret_file.absolute()}")


def run(
    options: Options,
    nodes: Nodes,
    client: Callable[[], Client],
    cql: Callable[[], Cql],
    sleep: Sleep,
    say: Say,
) -> None:
    """All of it, in order. client, cql: connect when it is their turn."""
    nodes.wait_for(options.nodes, options.wait_s, sleep, say)
    say(f"nodes: {options.nodes}, each lists all")
    make_tables(options, client(), say)
    by_cql(options, cql(), say)

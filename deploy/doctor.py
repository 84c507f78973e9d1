"""What is wrong with a cluster, and how to fix it. Reads only."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from chalicelib.errors import SchedulerError
from chalicelib.processing.membership import OFFSET_WARN_MS
from chalicelib.store.alternator import progress, tables
from chalicelib.store.alternator.tables import TABLES, Table
from chalicelib.store.alternator.wire.client import Client
from chalicelib.times import rfc3339
from deploy import plan
from deploy.cql import Cql, CqlFailed, Row
from deploy.nodes import Nodes, described, is_whole
from deploy.options import Options
from deploy.provision import described as create_statement
from deploy.provision import granted, racks_by_center, replicas


class Finding(NamedTuple):
    """text: what was found. remedy: what to do about it, empty if all is well."""

    text: str
    remedy: str = ""

    @property
    def is_wrong(self) -> bool:
        return bool(self.remedy)


def report(findings: Sequence[Finding], say: Callable[[str], None]) -> int:
    """Say everything, what is wrong last; returns how much that is."""
    wrong = [finding for finding in findings if finding.is_wrong]
    for finding in findings:
        say(f"{'WRONG' if finding.is_wrong else 'ok   '} {finding.text}")
    for number, finding in enumerate(wrong, 1):
        say(f"{number}. {finding.text}\n   -> {finding.remedy}")
    say("nothing is wrong" if not wrong else f"{len(wrong)} wrong")
    return len(wrong)


def examine(
    options: Options,
    nodes: Nodes,
    client: Callable[[], Client],
    cql: Callable[[], Cql],
) -> Iterator[Finding]:
    """client, cql: connect when it is their turn; what cannot be reached is a finding."""
    listed = nodes.listed_by()
    yield from _nodes(options, nodes, listed)
    if any(listed.values()):
        try:
            connected = client()
        except SchedulerError as error:
            yield Finding(f"Alternator: {error}", "fix what it says; tables were not looked at")
        else:
            for table in TABLES:
                yield _table(options, connected, table)
            yield from _sweep(options, connected)
    try:
        session = cql()
    except CqlFailed as error:
        remedy = "set CQL_USER and CQL_PASSWORD, or --cql-hosts; all below needs CQL"
        yield Finding(f"CQL: {error}", remedy)
        return
    for check in _checks():
        try:
            yield from check(options, session)
        except CqlFailed as error:
            yield Finding(str(error), "this could not be looked at: see what it says")


def _checks() -> Sequence[Callable[[Options, Cql], Iterator[Finding]]]:
    """What is looked at by CQL, in order."""
    return (
        _up, _versions, _racks, _replication, _table_options, _paxos, _large_partitions, _role,
    )  # fmt: skip


def _nodes(
    options: Options, nodes: Nodes, listed: Mapping[str, Sequence[str] | None]
) -> Iterator[Finding]:
    if is_whole(listed, options.nodes):
        yield Finding(f"{options.nodes} nodes, each lists all")
    else:
        remedy = f"start what is down, or say how many there are (--nodes {options.nodes})"
        yield Finding(
            f"expected {options.nodes} nodes that know each other: {described(listed)}", remedy
        )
    for node in sorted(node for node, others in listed.items() if others is not None):
        offset_ms = nodes.clock_offset_ms(node)
        if offset_ms is None:
            yield Finding(f"clock of {node}: no Date in its answers", "look at what answers there")
        elif abs(offset_ms) > OFFSET_WARN_MS:
            remedy = "fix the time service there or here: processors go by the nodes"
            yield Finding(f"clock of {node}: at least {offset_ms} ms ahead of this one", remedy)
        else:
            yield Finding(f"clock of {node}: agrees with this one as far as can be told")


def _table(options: Options, client: Client, table: Table) -> Finding:
    name = options.prefix + table.name
    try:
        tables.verify_table(client, table, options.prefix)
    except SchedulerError as error:
        return Finding(str(error), "python -m deploy provision creates what is missing")
    if table.name == tables.EXPIRING and not tables.expires(client, name):
        remedy = "python -m deploy provision sets it; until then such rows stay for ever"
        return Finding(f"table {name}: rows whose time to live is over are not purged", remedy)
    return Finding(f"table {name}: keys and {table.isolation} as they should be")


def _sweep(options: Options, client: Client) -> Iterator[Finding]:
    """How far it has come, and how long the last rounds took."""
    try:
        rounds = client.run(progress.stored(client.requester, f"{options.prefix}workers"))
    except SchedulerError as error:
        yield Finding(f"slow sweep: {error}", "this could not be looked at: see what it says")
        return
    for one in rounds:
        last = "no round has ended yet"
        if one.ended_ms is not None:
            last = (
                f"the last round, {one.read} rows, took {one.took_s} s to {rfc3339(one.ended_ms)}"
            )
        yield Finding(f"slow sweep of {one.name}: {last}; {one.rows} rows of round {one.number}")
    if not rounds:
        yield Finding("slow sweep: nobody has begun one")


def _up(options: Options, cql: Cql) -> Iterator[Finding]:
    rows = cql.rows(plan.status())
    for row in sorted(rows, key=lambda row: str(row["peer"])):
        text = f"node {row['peer']} ({row['dc']}): {row['status']}"
        if row["up"]:
            yield Finding(text)
        else:
            yield Finding(f"{text}, down", "start it, or remove it from the cluster")


def _versions(options: Options, cql: Cql) -> Iterator[Finding]:
    found = {
        str(row["version"]) for node in cql.nodes() for row in cql.rows(plan.version(), node=node)
    }
    if len(found) == 1:
        yield Finding(f"version {found.pop()} on all nodes")
    else:
        yield Finding(f"versions {', '.join(sorted(found)) or 'unknown'}", "end the upgrade")


def _racks(options: Options, cql: Cql) -> Iterator[Finding]:
    for center, racks in racks_by_center(cql).items():
        text = f"data center {center}: racks {', '.join(racks)}"
        if len(racks) == plan.factor_for(options.nodes) or options.nodes < plan.FACTOR:
            yield Finding(text)
        else:
            remedy = f"{plan.FACTOR} racks are expected: add nodes in racks of their own"
            yield Finding(text, remedy)


def _replication(options: Options, cql: Cql) -> Iterator[Finding]:
    wanted = plan.factor_for(options.nodes)
    for table in TABLES:
        name = options.prefix + table.name
        factors = replicas(options, cql, table)
        text = f"replicas of {name}: {factors}"
        if set(factors.values()) == {wanted}:
            yield Finding(text)
        else:
            remedy = (
                f"expected {wanted}: drop it while it is empty, or alter its keyspace and repair"
            )
            yield Finding(text, remedy)


def _table_options(options: Options, cql: Cql) -> Iterator[Finding]:
    for table in plan.INDEXES:
        found = plan.options_of(create_statement(cql, plan.describe(options.prefix, table)))
        text = f"tombstones of {options.prefix}{table.name}: {found.mode}, {found.grace_s} s"
        if found == plan.WANTED:
            yield Finding(text)
        else:
            yield Finding(text, plan.alter(options.prefix, table))


def _paxos(options: Options, cql: Cql) -> Iterator[Finding]:
    names = {row["table_name"] for row in cql.rows(plan.table_names(options.prefix, TABLES[0]))}
    paxos = f"{options.prefix}{TABLES[0].name}$paxos"
    there = (
        "there" if paxos in names else "not there: made by the first conditional write, if at all"
    )
    yield Finding(f"table {paxos}: {there}")


def _large_partitions(options: Options, cql: Cql) -> Iterator[Finding]:
    for node in cql.nodes():
        for table in TABLES:
            rows = cql.rows(plan.large_partitions(options.prefix, table), node=node)
            for row in rows:
                yield Finding(_large(options, node, table, row), "use more SHARDS; see docs")
    yield Finding("large partitions: all nodes were asked")


def _large(options: Options, node: str, table: Table, row: Row) -> str:
    name, key = options.prefix + table.name, row["partition_key"]
    return f"{node}: partition {key} of {name} has {row['rows']} rows, {row['partition_size']} B"


def _role(options: Options, cql: Cql) -> Iterator[Finding]:
    if options.role is None:
        return
    remedy = "python -m deploy provision"
    rows = cql.rows(plan.role_exists(options.role))
    if not rows:
        yield Finding(f"role {options.role}: there is none", remedy)
        return
    if rows[0]["is_superuser"]:
        yield Finding(f"role {options.role} is a superuser", "let the service have one of its own")
    has = granted(list(cql.rows(plan.permissions(options.role))))
    ours = {plan.resource(options.prefix, table): table for table in TABLES}
    for resource, table in ours.items():
        there = has.get(resource, set())
        lacking = sorted(set(plan.PERMISSIONS) - there)
        text = (
            f"grants of {options.role} on {options.prefix}{table.name}: {', '.join(sorted(there))}"
        )
        yield Finding(text, f"{remedy} grants {', '.join(lacking)}" if lacking else "")
    for resource, there in sorted(has.items()):
        surplus = there - set(plan.PERMISSIONS) if resource in ours else there
        if surplus:
            text = f"{options.role} may {', '.join(sorted(surplus))} on {resource}, and need not"
            yield Finding(text, "REVOKE it")

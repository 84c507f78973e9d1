"""Provisioning and doctor: on nodes in front of the embedded engine, and a cluster's CQL faked."""

import argparse
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chalicelib.clock import Clock, SystemClock
from chalicelib.config import Settings
from chalicelib.errors import InvalidSetting, StoreMismatch, StoreUnavailable
from chalicelib.store.alternator import tables
from chalicelib.store.alternator.progress import Round
from chalicelib.store.alternator.requests import Request, put_row
from chalicelib.store.alternator.tables import TABLES
from chalicelib.store.alternator.wire.client import Client, LoopThread
from chalicelib.store.alternator.wire.requester import Requester
from deploy import __main__ as command
from deploy import doctor, plan, provision
from deploy import options as deploy_options
from deploy.cql import CqlFailed, DriverCql, Row
from deploy.nodes import Nodes
from deploy.options import Options
from deploy.provision import Unprovisioned
from local.settings import ROOT
from tests.conftest import free_port
from tests.support.engine import Engine
from tests.support.fakes import NOON_MS
from tests.support.front import HOSTS, Front, front
from tests.support.profile import CheckedTransport

if TYPE_CHECKING:
    pass

FRESH = "WITH gc_grace_seconds = 864000 AND comment = ''"
"""How Alternator makes a table: ten days, and no mode named."""


@dataclass
class FakeCql:
    """What a cluster of three nodes in three racks answers. Records what is sent.

    A statement for no node in particular goes to the next one, as the driver does it.
    """

    racks: tuple[str, ...] = ("r1", "r2", "r3")
    factor: str = "3"
    options: dict[str, str] = field(default_factory=dict)
    roles: dict[str, dict[str, Any]] = field(default_factory=dict)
    grants: dict[str, set[str]] = field(default_factory=dict)
    large: list[Row] = field(default_factory=list)
    down: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    turns: Iterator[str] = field(default_factory=lambda: itertools.cycle(HOSTS))

    def nodes(self) -> Sequence[str]:
        return HOSTS

    @property
    def changes(self) -> list[str]:
        return [one for one in self.sent if not one.startswith(("SELECT", "DESCRIBE"))]

    def rows(self, statement: str, *, node: str | None = None) -> Sequence[Row]:
        self.sent.append(statement)
        asked = node or next(self.turns)
        answers: list[tuple[str, Callable[[re.Match[str]], list[Row]]]] = [
            (r"SELECT .* FROM system\.local$", lambda _: [self._nodes()[asked]]),
            (r"SELECT .* FROM system\.peers$", lambda _: self._peers(asked)),
            (
                r"SELECT version FROM system\.versions WHERE key = 'local'$",
                lambda _: [{"version": self.versions.get(asked, "2026.1.11")}],
            ),
            (r"SELECT .* FROM system\.cluster_status$", lambda _: self._status()),
            (r"SELECT .* FROM system_schema\.keyspaces WHERE .*'(.*)'$", self._keyspace),
            (r"SELECT .* FROM system_schema\.tables WHERE .*_tasks'$", self._tables),
            (r"SELECT .* FROM system\.large_partitions WHERE .*", lambda _: self.large),
            (r'DESCRIBE TABLE "alternator_(.*)"\."\1"$', self._describe),
            (r'ALTER TABLE "alternator_(.*)"\."\1" (WITH .*)$', self._alter),
            (r"SELECT .* FROM system\.roles WHERE role = '(.*)'$", self._role),
            (r"""CREATE ROLE IF NOT EXISTS "(.*)" WITH PASSWORD = '(.+)' AND""", self._create),
            (r"SELECT .* FROM system\.role_permissions WHERE role = 'scheduler'$", self._granted),
            (r'GRANT (\w+) ON TABLE "(.*)"\."(.*)" TO "scheduler"$', self._grant),
        ]
        for pattern, answer in answers:
            if match := re.match(pattern, statement):
                return answer(match)
        raise AssertionError(f"a statement that nobody knows: {statement}")

    def _nodes(self) -> dict[str, Row]:
        return {
            host: {"data_center": "dc1", "rack": rack, "rpc_address": host}
            for host, rack in zip(HOSTS, self.racks, strict=True)
        }

    def _peers(self, asked: str) -> list[Row]:
        """No node is among its own peers."""
        return [row for host, row in self._nodes().items() if host != asked]

    def _status(self) -> list[Row]:
        return [
            {"peer": node, "dc": "dc1", "up": node not in self.down, "status": "NORMAL"}
            for node in HOSTS
        ]

    def _keyspace(self, match: re.Match[str]) -> list[Row]:
        return [{"replication": {"class": "NetworkTopologyStrategy", "dc1": self.factor}}]

    def _tables(self, match: re.Match[str]) -> list[Row]:
        return [{"table_name": "tasks"}, {"table_name": "tasks$paxos"}]

    def _describe(self, match: re.Match[str]) -> list[Row]:
        options = self.options.get(match[1], FRESH)
        return [{"create_statement": f"CREATE TABLE {match[1]} (...) {options};"}]

    def _alter(self, match: re.Match[str]) -> list[Row]:
        self.options[match[1]] = match[2]
        return []

    def _role(self, match: re.Match[str]) -> list[Row]:
        return [self.roles[match[1]]] if match[1] in self.roles else []

    def _create(self, match: re.Match[str]) -> list[Row]:
        row = {"role": match[1], "can_login": True, "is_superuser": False}
        self.roles[match[1]] = {**row, "salted_hash": f"$6$salt$of.{match[2]}"}
        return []

    def _granted(self, match: re.Match[str]) -> list[Row]:
        return [{"resource": name, "permissions": has} for name, has in self.grants.items()]

    def _grant(self, match: re.Match[str]) -> list[Row]:
        self.grants.setdefault(f"data/{match[2]}/{match[3]}", set()).add(match[1])
        return []


@dataclass
class Site:
    """A cluster to provision. said: what the operator saw."""

    options: Options
    nodes: Front
    client: Client
    cql: FakeCql = field(default_factory=FakeCql)
    said: list[str] = field(default_factory=list)
    clock: Clock = field(default_factory=SystemClock)

    def provision(self, **changed: Any) -> None:
        options = replace(self.options, **changed)
        nodes = Nodes(options.settings, self.clock)
        provision.run(
            options,
            nodes,
            lambda: self.client,
            lambda: self.cql,
            lambda seconds: None,
            self.said.append,
        )

    def examine(self) -> list[doctor.Finding]:
        nodes = Nodes(self.options.settings, self.clock)
        return list(doctor.examine(self.options, nodes, lambda: self.client, lambda: self.cql))

    def wrong(self) -> list[doctor.Finding]:
        return [finding for finding in self.examine() if finding.is_wrong]


def given(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    deploy_options.add_to(parser)
    return parser.parse_args(words)


@pytest.fixture
def site(
    engine: Engine, settings: Settings, thread: LoopThread, wire: CheckedTransport
) -> Iterator[Site]:
    with front(engine.settings, *HOSTS) as nodes:
        env = {"ALTERNATOR_ENDPOINTS": nodes.url(), "TABLE_PREFIX": settings.table_prefix}
        client = Client(thread, Requester(wire, SystemClock()))
        yield Site(Options.of(given(), env), nodes, client)


# The plan


def test_dry_run_needs_no_server_and_no_options() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "deploy", "provision", "--dry-run"],
        cwd=ROOT,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert ran.stderr == ""
    for part in ("GET /localnodes", "CreateTable", "tombstone_gc = {'mode': 'timeout'}", "GRANT"):
        assert part in ran.stdout
    steps = [line for line in ran.stdout.splitlines() if re.match(r" *\d+\. ", line)]
    reasons = [line for line in ran.stdout.splitlines() if line.startswith("    -- ")]
    assert len(steps) == len(list(plan.steps("", 3, "scheduler")))
    assert len(reasons) == len(steps) + 1
    assert "PASSWORD = '<random>'" in ran.stdout


def test_every_statement_of_a_run_stands_in_the_dry_run(site: Site) -> None:
    site.provision()
    prefix = site.options.prefix
    planned = {step.text for step in plan.steps(prefix, 3, "scheduler") if step.kind == "CQL"}
    sent = [re.sub("PASSWORD = '[^']*'", "PASSWORD = '<random>'", one) for one in site.cql.sent]
    assert set(sent) == planned - {plan.secret("scheduler")}
    tables.verify(site.client, prefix)


def test_names_are_quoted() -> None:
    texts = [step.text for step in plan.steps("a-B.", 3, "scheduler")]
    assert 'DESCRIBE TABLE "alternator_a-B.schedule"."a-B.schedule"' in texts
    assert 'GRANT SELECT ON TABLE "alternator_a-B.tasks"."a-B.tasks" TO "scheduler"' in texts


@pytest.mark.parametrize("role", ['x"; DROP ROLE y', "Upper", "1st", "a" * 49, "ä"])
def test_role_that_is_no_plain_word_is_refused(role: str) -> None:
    with pytest.raises(InvalidSetting, match="--role"):
        Options.of(given("--role", role), {})


def test_every_alter_names_the_mode() -> None:
    alters = [s.text for s in plan.steps("", 3, None) if s.text.startswith("ALTER")]
    assert len(alters) == 3
    assert all("tombstone_gc = {'mode': 'timeout'}" in text for text in alters)
    assert not any('"tasks"' in text for text in alters)


@pytest.mark.parametrize(
    ("description", "options"),
    [
        ("WITH tombstone_gc = {'mode':'repair','x':'1'} AND gc_grace_seconds = 5", ("repair", 5)),
        ("WITH gc_grace_seconds=864000 AND tombstone_gc={'mode': 'timeout'}", ("timeout", 864_000)),
        ("WITH comment = ''", (None, None)),
    ],
)
def test_options_are_read(description: str, options: tuple[str, int]) -> None:
    assert plan.options_of(description) == options


@pytest.mark.parametrize("value", ["3", ["r1", "r2", "r3"], "['r1', 'r2', 'r3']"])
def test_replicas_are_counted(value: Any) -> None:
    assert plan.factors_of({"class": "NetworkTopologyStrategy", "dc1": value}) == {"dc1": 3}


# Provisioning


def test_second_run_changes_nothing(site: Site) -> None:
    site.provision()
    assert len(site.cql.changes) == 3 + 1 + 8
    site.cql.sent.clear()
    site.said.clear()
    site.provision()
    assert site.cql.changes == []
    assert not [line for line in site.said if re.search("created|granted|->", line)]


def test_only_what_is_lacking_is_done(site: Site) -> None:
    site.provision()
    lacking = site.options.prefix + "tasks"
    site.cql.grants[f"data/alternator_{lacking}/{lacking}"].discard("MODIFY")
    site.cql.options[site.options.prefix + "schedule"] = FRESH
    site.cql.sent.clear()
    site.provision()
    assert [statement.split()[0] for statement in site.cql.changes] == ["ALTER", "GRANT"]


@pytest.mark.own_tables
def test_no_table_is_created_before_all_nodes_know_each_other(site: Site) -> None:
    site.nodes.lists[HOSTS[1]] = list(HOSTS[:2])
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.2 lists 127\.0\.0\.1, 127\.0\.0\.2;"):
        site.provision(wait_s=0.0)
    assert tables.missing(site.client, site.options.prefix) == list(TABLES)
    assert site.cql.sent == []


def test_node_that_comes_late_is_waited_for(site: Site) -> None:
    site.nodes.lists[HOSTS[2]] = []

    def come(seconds: float) -> None:
        del site.nodes.lists[HOSTS[2]]

    nodes = Nodes(site.options.settings, SystemClock())
    nodes.wait_for(3, 60.0, come, site.said.append)
    assert len(site.said) == 1
    assert "127.0.0.3 lists -" in site.said[0]


def test_node_that_does_not_answer_is_named(site: Site) -> None:
    for host in HOSTS:
        site.nodes.lists[host] = [*HOSTS, "127.0.0.4"]
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.4 does not answer"):
        site.provision(nodes=4, wait_s=0.0)


def test_too_few_replicas_are_refused_before_anything_is_altered(site: Site) -> None:
    site.cql.factor = "1"
    with pytest.raises(StoreMismatch, match="created when fewer nodes were known"):
        site.provision()
    assert site.cql.changes == []


@pytest.mark.parametrize("first", HOSTS)
def test_racks_of_all_nodes_are_seen_whoever_is_asked(site: Site, first: str) -> None:
    while next(site.cql.turns) != first:
        pass
    assert provision.racks_by_center(site.cql) == {"dc1": ["r1", "r2", "r3"]}


def test_two_racks_are_refused(site: Site) -> None:
    site.cql.racks = ("r1", "r2", "r2")
    with pytest.raises(Unprovisioned, match="dc1 has 2 racks, expected 3"):
        site.provision()
    assert site.cql.changes == []


@pytest.mark.parametrize("flags", [(True, True), (False, False)])
def test_role_of_something_else_is_refused(site: Site, flags: tuple[bool, bool]) -> None:
    login, superuser = flags
    site.cql.roles["scheduler"] = {"can_login": login, "is_superuser": superuser}
    with pytest.raises(Unprovisioned, match="belongs to something else"):
        site.provision()
    assert site.cql.grants == {}


def test_no_role_is_made_where_none_is_wanted(site: Site) -> None:
    site.provision(role=None)
    assert site.cql.roles == {}
    assert {statement.split()[0] for statement in site.cql.changes} == {"ALTER"}


def test_secret_goes_to_a_file_of_its_owner_and_nowhere_else(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "service.secret"
    file.write_text("open to all")
    file.chmod(0o666)
    site.provision(secret_file=file)
    assert file.stat().st_mode & 0o777 == 0o600
    secret = site.cql.roles["scheduler"]["salted_hash"]
    assert file.read_text() == f"{secret}\n"
    assert secret not in "".join(site.said)


def by_shell(file: Path) -> dict[str, str]:
    command = ["sh", "-c", 'set -a; . "$1"; exec env -0', "sh", str(file)]
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


def by_docker(file: Path) -> dict[str, str]:
    """`docker run --env-file`: as it stands there."""
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


def by_compose(file: Path) -> dict[str, str]:
    """`env_file`: variables are put in, of which none is known here."""
    return {name: re.sub(r"\$(\w+|\{\w+\})", "", value) for name, value in by_docker(file).items()}


@pytest.mark.parametrize("read", [by_shell, by_docker, by_compose])
def test_lines_that_are_said_bring_the_secret_into_the_service(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Path], dict[str, str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    site.provision(secret_file=Path("service.secret"))
    lines = [line for line in site.said if line.startswith("ALTERNATOR_")]
    assert len(lines) == 2
    file = tmp_path / "service.env"
    file.write_text("\n".join(lines) + "\n")
    monkeypatch.chdir("/")
    settings = Settings.from_env(read(file))
    secret = site.cql.roles["scheduler"]["salted_hash"]
    assert (settings.user, settings.secret) == ("scheduler", secret)


def test_a_shell_can_hand_the_secret_on(site: Site, tmp_path: Path) -> None:
    """As to a container or a function, whose environment takes it in words."""
    file = tmp_path / "service.secret"
    site.provision(secret_file=file)
    tell = "from chalicelib.config import Settings; print(Settings.from_env().secret)"
    script = 'ALTERNATOR_SECRET="$(cat "$1")" exec "$2" -c "$3"'
    command = ["sh", "-c", script, "sh", str(file), sys.executable, tell]
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == site.cql.roles["scheduler"]["salted_hash"] + "\n"


def test_secret_that_cannot_be_written_is_told(site: Site, tmp_path: Path) -> None:
    with pytest.raises(Unprovisioned, match="--secret-file"):
        site.provision(secret_file=tmp_path / "no" / "env")


# Doctor


def test_nothing_is_wrong_with_a_provisioned_cluster(site: Site) -> None:
    site.provision()
    site.cql.sent.clear()
    findings = site.examine()
    assert doctor.report(findings, site.said.append) == 0
    assert site.said[-1] == "nothing is wrong"
    assert site.cql.changes == [], "it reads only"
    assert "slow sweep: nobody has begun one" in [finding.text for finding in findings]


def test_rounds_of_the_sweep_are_told(site: Site) -> None:
    site.provision()
    one = Round(name="tasks", number=7, begun_ms=NOON_MS - 60_000, rows=1_500)
    row = put_row(f"{site.options.prefix}workers", one.next(NOON_MS).item)
    site.client.decide(row)
    assert [f.text for f in site.examine() if "sweep" in f.text] == [
        "slow sweep of tasks: the last round, 1500 rows, took 60 s to 2027-01-15T08:00:00.000Z;"
        " 0 rows of round 8"
    ]


@pytest.mark.own_tables
def test_table_that_is_missing_is_found(site: Site) -> None:
    assert "is missing" in site.wrong()[0].text


@pytest.mark.parametrize(
    ("harm", "text", "remedy"),
    [
        (
            lambda s: setattr(s.cql, "down", ("127.0.0.2",)),
            "127.0.0.2 (dc1): NORMAL, down",
            "start",
        ),
        (lambda s: setattr(s.cql, "factor", "1"), "replicas of", "expected 3"),
        (
            lambda s: s.cql.versions.update({HOSTS[2]: "2026.2.5"}),
            "versions 2026.1.11, 2026.2.5",
            "end the upgrade",
        ),
        (lambda s: setattr(s.cql, "racks", ("r1", "r1", "r1")), "racks r1", "racks of their own"),
        (lambda s: s.cql.options.clear(), "tombstones of", "tombstone_gc = {'mode': 'timeout'}"),
        (lambda s: s.cql.grants.popitem(), "grants of scheduler", "grants MODIFY, SELECT"),
        (lambda s: s.cql.grants.update({"data": {"DROP"}}), "may DROP on data", "REVOKE"),
        (lambda s: s.cql.roles.clear(), "there is none", "provision"),
        (
            lambda s: s.cql.large.append({"rows": 9, "partition_size": 1, "partition_key": "k"}),
            "partition k of",
            "SHARDS",
        ),
        (
            lambda s: s.nodes.lists.update({HOSTS[0]: list(HOSTS[:2])}),
            "expected 3 nodes",
            "start what is down",
        ),
    ],
)
def test_what_is_wrong_is_found(
    site: Site, harm: Callable[[Site], object], text: str, remedy: str
) -> None:
    site.provision()
    harm(site)
    wrong = site.wrong()
    assert any(text in finding.text and remedy in finding.remedy for finding in wrong), wrong
    assert doctor.report(wrong, site.said.append) == len(wrong)


def test_rows_that_are_not_purged_are_found(site: Site) -> None:
    """As those of statistics in an installation of an earlier version."""
    site.provision()
    never = {"Enabled": False, "AttributeName": tables.PURGE_ATTRIBUTE}
    body = {"TableName": f"{site.options.prefix}workers", "TimeToLiveSpecification": never}
    site.client.decide(Request("UpdateTimeToLive", body))
    (found,) = site.wrong()
    assert "not purged" in found.text and "provision sets it" in found.remedy
    site.provision()
    assert site.wrong() == []


def test_clock_that_is_off_is_found(site: Site) -> None:
    site.provision()

    class Behind(SystemClock):
        def now_ms(self) -> int:
            return super().now_ms() - 5_000

    site.clock = Behind()
    assert [f.text.split(":")[0] for f in site.wrong()] == [f"clock of {a}" for a in HOSTS]


def test_without_cql_the_rest_is_examined(site: Site) -> None:
    site.provision()

    def refused() -> FakeCql:
        raise CqlFailed("CQL at x:9042 cannot be used")

    nodes = Nodes(site.options.settings, site.clock)
    findings = list(doctor.examine(site.options, nodes, lambda: site.client, refused))
    assert [finding.text for finding in findings if finding.is_wrong] == [
        "CQL: CQL at x:9042 cannot be used"
    ]
    assert len(findings) > 7


def test_refused_statement_is_a_finding_of_its_own(site: Site) -> None:
    site.provision()
    rows = site.cql.rows

    def some(statement: str, *, node: str | None = None) -> Sequence[Row]:
        if "cluster_status" in statement:
            raise CqlFailed("SELECT peer, … failed: no such table")
        return rows(statement, node=node)

    site.cql.rows = some  # type: ignore[method-assign]
    assert [finding.text for finding in site.wrong()] == ["SELECT peer, … failed: no such table"]


# The command


def test_driver_says_where_nobody_answers() -> None:
    port = free_port()
    options = Options.of(given("--cql-port", str(port)), {"CQL_USER": "u", "CQL_PASSWORD": "pw"})
    with pytest.raises(CqlFailed, match=rf"127\.0\.0\.1:{port} cannot be used") as raised:
        DriverCql.connect(options)
    assert "pw" not in str(raised.value)


class Host:
    """A node, as the driver knows it."""

    def __init__(self, address: str, is_up: bool | None) -> None:
        self.address, self.is_up = address, is_up


class Driver:
    """The driver's cluster, its metadata and its session in one."""

    def __init__(self, *hosts: Host) -> None:
        self.metadata = self
        self.hosts = hosts
        self.asked: list[Host | None] = []

    def all_hosts(self) -> Sequence[Host]:
        return self.hosts

    def execute(self, statement: str, host: Host | None) -> list[Row]:
        self.asked.append(host)
        return []


def test_racks_are_asked_of_one_node_that_is_up() -> None:
    down, up, unknown = Host("127.0.0.1", False), Host("127.0.0.3", True), Host("127.0.0.2", None)
    driver = Driver(down, unknown, up)
    cql = DriverCql(driver, driver)
    assert cql.nodes() == ["127.0.0.3", "127.0.0.1", "127.0.0.2"]
    provision.racks_by_center(cql)
    assert driver.asked == [up, up]


@pytest.mark.parametrize("error", ["SyntaxException", "ConfigurationException", "ServerError"])
def test_driver_turns_every_error_of_a_server_into_its_own(error: str) -> None:
    from cassandra import protocol

    class Failing(Driver):
        def execute(self, statement: str, host: object) -> list[Row]:
            raise getattr(protocol, error)(0x2000, "not understood", None)

    driver = Failing()
    with pytest.raises(CqlFailed, match=r"^CREATE ROLE … failed: .*not understood") as raised:
        DriverCql(driver, driver).rows("CREATE ROLE x WITH PASSWORD = 'pw'")
    assert "pw" not in str(raised.value)


def test_file_without_certificates_is_refused(tmp_path: Path) -> None:
    env = {"ALTERNATOR_CA_FILE": str(tmp_path / "none.pem")}
    with pytest.raises(InvalidSetting, match="ALTERNATOR_CA_FILE="):
        DriverCql.connect(Options.of(given("--cql-tls"), env))


def test_command_tells_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setenv("ALTERNATOR_ENDPOINTS", f"http://127.0.0.1:{port}")
    assert command.main(["provision", "--wait", "0"]) == 1
    assert "127.0.0.1 does not answer" in capsys.readouterr().err
    assert command.main(["doctor", "--cql-port", str(port)]) == 1
    out = capsys.readouterr().out
    assert "expected 3 nodes" in out
    assert "2 wrong" in out


@pytest.mark.parametrize(
    "words", [["--nodes", "0"], ["--nodes", "x"], ["--wait", "-1"], ["--cql-port", "65536"]]
)
def test_command_refuses_what_it_cannot_use(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(["provision", *words])
    assert "expected" in capsys.readouterr().err


@pytest.mark.own_tables
def test_whole_command_on_nodes_without_cql(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALTERNATOR_ENDPOINTS", site.options.settings.endpoints[0])
    monkeypatch.setenv("TABLE_PREFIX", site.options.prefix)
    port = str(free_port())
    assert command.main(["provision", "--wait", "0", "--cql-port", port]) == 1
    told = capsys.readouterr()
    assert "tasks: created" in told.out
    assert "CQL at" in told.err
    assert tables.missing(site.client, site.options.prefix) == []

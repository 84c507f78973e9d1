"""CQL, by cassandra-driver: what the DynamoDB API cannot say."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

from chalicelib.errors import SchedulerError
from chalicelib.store.alternator.wire import tls
from deploy.options import Options

TIMEOUT_S = 10.0

Row = Mapping[str, Any]


class CqlFailed(SchedulerError):
    """A CQL statement was refused, or nobody answers."""


class Cql(Protocol):
    """A connection to the cluster."""

    def rows(self, statement: str, *, node: str | None = None) -> Sequence[Row]:
        """What the statement answers: of this node, or of any if none is named; twice in a row
        they can be two. Raises CqlFailed.
        """

    def nodes(self) -> Sequence[str]:
        """Addresses of all nodes, at least one; those that are up come first."""


class DriverCql:
    """Cql on cassandra-driver."""

    def __init__(self, cluster: Any, session: Any) -> None:
        self._cluster = cluster
        self._session = session

    @classmethod
    def connect(cls, options: Options) -> Self:
        """Raises CqlFailed if no node lets us in, InvalidSetting for a CA file without any."""
        # Imported here: it takes a while, and a dry run needs none of it.
        from cassandra import DriverException
        from cassandra.cluster import NoHostAvailable

        logging.getLogger("cassandra").setLevel(logging.CRITICAL)
        cluster = _cluster(options)
        try:
            return cls(cluster, cluster.connect())
        except (NoHostAvailable, DriverException, OSError) as error:
            cluster.shutdown()
            where = ", ".join(f"{host}:{options.cql_port}" for host in options.cql_hosts)
            raise CqlFailed(f"CQL at {where} cannot be used: {_causes(error)}") from error

    def close(self) -> None:
        self._cluster.shutdown()

    def nodes(self) -> Sequence[str]:
        hosts = self._cluster.metadata.all_hosts()
        return [host.address for host in sorted(hosts, key=lambda h: (not h.is_up, h.address))]

    def rows(self, statement: str, *, node: str | None = None) -> Sequence[Row]:
        from cassandra import DriverException, RequestExecutionException
        from cassandra.cluster import NoHostAvailable
        from cassandra.protocol import ErrorMessage

        # A server's error that the driver has no class for comes as the message it is.
        failures = DriverException, RequestExecutionException, NoHostAvailable, ErrorMessage
        hosts = {host.address: host for host in self._cluster.metadata.all_hosts()}
        try:
            found = self._session.execute(statement, host=hosts[node] if node else None)
        except (*failures, KeyError) as error:
            # A statement can hold a password: only its first words are told.
            words = " ".join(statement.split()[:2])
            raise CqlFailed(f"{words} … failed: {_causes(error)}") from error
        return list(found)


def _cluster(options: Options) -> Any:
    """Not connected yet. Raises InvalidSetting for a CA file without any certificate."""
    from cassandra.auth import PlainTextAuthProvider
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
    from cassandra.policies import RoundRobinPolicy
    from cassandra.query import dict_factory

    auth = None
    if options.cql_user:
        auth = PlainTextAuthProvider(options.cql_user, options.cql_password)
    profile = ExecutionProfile(
        load_balancing_policy=RoundRobinPolicy(),
        row_factory=dict_factory,
        request_timeout=TIMEOUT_S,
    )
    return Cluster(
        list(options.cql_hosts),
        port=options.cql_port,
        auth_provider=auth,
        ssl_context=tls.trusting(options.ca_file) if options.cql_tls else None,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=TIMEOUT_S,
    )


def _causes(error: Exception) -> str:
    """The driver wraps what each node said."""
    nested = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], dict) else {}
    return "; ".join(f"{node}: {cause}" for node, cause in nested.items()) or str(error)

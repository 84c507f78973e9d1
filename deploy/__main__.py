"""`python -m deploy provision`: make a ScyllaDB cluster fit for the service; again changes nothing.
`python -m deploy doctor`: what is wrong with one, and how to fix it; exit 1 if anything is.
`python -m deploy key NAME --scope write`: a new API key, and its entry for API_KEYS.

The service's environment tells where the cluster is (ALTERNATOR_ENDPOINTS, TABLE_PREFIX, …); user
and secret must be allowed to create tables. CQL_USER and CQL_PASSWORD: a role that may alter tables
and make roles, where the cluster asks for one. CQL_PASSWORD_FILE: a file that holds the password.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from chalicelib import log
from chalicelib.clock import SystemClock, pause
from chalicelib.errors import SchedulerError
from deploy import key, provision
from deploy import options as deploy_options
from deploy.options import Options


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    if given.command == "key":
        key.make(given.name, given.scope, print)
        return 0
    log.set_up()
    try:
        options = Options.of(given)
        if given.command == "provision" and given.dry_run:
            provision.dry_run(options, print)
            return 0
        with ExitStack() as stack:
            return _run(given.command, options, stack)
    except SchedulerError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    provisioning = commands.add_parser("provision", help="make a cluster fit for the service")
    deploy_options.add_to(provisioning)
    provisioning.add_argument(
        "--secret-file",
        type=Path,
        metavar="FILE",
        help="write the role's secret there, for ALTERNATOR_SECRET_FILE",
    )
    provisioning.add_argument(
        "--dry-run", action="store_true", help="say what would be sent, and why; send nothing"
    )
    deploy_options.add_to(commands.add_parser("doctor", help="say what is wrong with a cluster"))
    key.add_to(commands.add_parser("key", help="make an API key"))
    return parser


def _run(command: str, options: Options, stack: ExitStack) -> int:
    # Imported here: a dry run needs none of it.
    from chalicelib.store.alternator.wire.client import Client
    from deploy import doctor
    from deploy.cql import DriverCql
    from deploy.nodes import Nodes

    clock = SystemClock()
    nodes = Nodes(options.settings, clock)

    def client() -> Client:
        connected = Client.connect(options.settings, clock)
        stack.callback(connected.close)
        return connected

    def cql() -> DriverCql:
        connected = DriverCql.connect(options)
        stack.callback(connected.close)
        return connected

    if command == "doctor":
        findings = list(doctor.examine(options, nodes, client, cql))
        return 1 if doctor.report(findings, print) else 0
    provision.run(options, nodes, client, cql, pause, print)
    print("provisioned")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The four tables: created with explicit keys and write isolation, and verified at start."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.alternator import outcome, requests, tls
from chalicelib.clock import Sleep, pause
from chalicelib.errors import StoreMismatch, StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

ISOLATION = "system:write_isolation"
PURGE_ATTRIBUTE = "purge_at_s"
FLEET = "all"
ACTIVE_TRIES = 100
ACTIVE_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Table:
    """name: without prefix; hash_key, range_key: attributes of type S; isolation: the tag."""

    name: str
    hash_key: str
    range_key: str | None
    isolation: str

    @property
    def key_schema(self) -> list[dict[str, str]]:
        keys = [{"AttributeName": self.hash_key, "KeyType": "HASH"}]
        if self.range_key:
            keys.append({"AttributeName": self.range_key, "KeyType": "RANGE"})
        return keys


TABLES = (
    Table("tasks", "id", None, "always_use_lwt"),
    Table("schedule", "slot", "at", "forbid_rmw"),
    Table("timeline", "slot", "at", "forbid_rmw"),
    Table("workers", "fleet", "processor", "forbid_rmw"),
)


def create(client: "DynamoDBClient", prefix: str = "", sleep: Sleep = pause) -> None:
    """Create the tables that are missing and wait until they can be used."""
    for table in TABLES:
        try:
            client.create_table(**definition(table, prefix))
        except ClientError as error:
            # A 500 can come although the table was created; the wait below decides.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500 and (
                error.response["Error"]["Code"] != "ResourceInUseException"
            ):
                raise
        _wait_active(client, prefix + table.name, sleep)
    _expire_tombstones(client, f"{prefix}tasks")


def verify(client: "DynamoDBClient", prefix: str = "") -> None:
    """Raise StoreMismatch unless every table is there with the keys and tags it needs.

    Raises StoreUnavailable when the store does not answer.
    """
    for table in TABLES:
        verify_table(client, table, prefix)


def verify_table(client: "DynamoDBClient", table: Table, prefix: str = "") -> None:
    """As verify, for one table."""
    name = prefix + table.name
    try:
        described: Any = client.describe_table(TableName=name)["Table"]
        tags = client.list_tags_of_resource(ResourceArn=described["TableArn"]).get("Tags", [])
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            raise StoreMismatch(
                f"table {name} is missing: create the tables with `python -m local tables`",
                table=name,
            ) from error
        raise _unavailable(f"table {name} cannot be described", error) from error
    except BotoCoreError as error:
        raise _unavailable("the store does not answer", error) from error
    isolation = {tag["Key"]: tag["Value"] for tag in tags}.get(ISOLATION)
    _expect(name, "keys", described["KeySchema"], table.key_schema)
    _expect(name, f"tag {ISOLATION}", isolation, table.isolation)


def warm_up(client: "DynamoDBClient", prefix: str = "") -> None:
    """Make the first conditional write, which on ScyllaDB can take long, before anyone waits."""
    try:
        client.update_item(**requests.warm_up(f"{prefix}tasks").body)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise _unavailable("the first conditional write failed", error) from error
    except BotoCoreError as error:
        raise _unavailable("the store does not answer", error) from error


def _unavailable(what: str, error: ClientError | BotoCoreError) -> StoreUnavailable:
    if isinstance(error, ClientError) and error.response["Error"]["Code"] in outcome.UNAUTHORIZED:
        told = error.response["Error"]
        return outcome.refused(told["Code"], told.get("Message", ""))
    return StoreUnavailable(f"{what}: {tls.distrust(error) or error}")


def definition(table: Table, prefix: str = "") -> dict[str, Any]:
    """The body of CreateTable."""
    return {
        "TableName": prefix + table.name,
        "KeySchema": table.key_schema,
        "AttributeDefinitions": [
            {"AttributeName": key["AttributeName"], "AttributeType": "S"}
            for key in table.key_schema
        ],
        "BillingMode": "PAY_PER_REQUEST",
        "Tags": [{"Key": ISOLATION, "Value": table.isolation}],
    }


def missing(client: "DynamoDBClient", prefix: str = "") -> list[Table]:
    """The tables that are not there."""

    def is_missing(table: Table) -> bool:
        try:
            client.describe_table(TableName=prefix + table.name)
        except client.exceptions.ResourceNotFoundException:
            return True
        return False

    return [table for table in TABLES if is_missing(table)]


def _wait_active(client: "DynamoDBClient", name: str, sleep: Sleep) -> None:
    for _ in range(ACTIVE_TRIES):
        try:
            if client.describe_table(TableName=name)["Table"].get("TableStatus") == "ACTIVE":
                return
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
        sleep(ACTIVE_PAUSE_S)
    raise StoreUnavailable(f"table {name} did not become active")


def _expire_tombstones(client: "DynamoDBClient", name: str) -> None:
    described = client.describe_time_to_live(TableName=name)
    status = described["TimeToLiveDescription"].get("TimeToLiveStatus")
    if status not in ("ENABLED", "ENABLING"):
        client.update_time_to_live(
            TableName=name,
            TimeToLiveSpecification={"Enabled": True, "AttributeName": PURGE_ATTRIBUTE},
        )


def _expect(table: str, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise StoreMismatch(
            f"table {table} has {what} {found}, expected {expected}: it belongs to something"
            " else or to another version; give this service its own TABLE_PREFIX",
            table=table,
        )

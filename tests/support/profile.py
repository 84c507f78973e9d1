"""What Alternator implements, and how this service means to use it: a check of every request.

The engines of the tests accept more than ScyllaDB does. A request that breaks a rule here fails the
test that sent it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from chalicelib.store.alternator.requests import JsonObject, Request
from chalicelib.store.alternator.tables import ISOLATION, TABLES
from chalicelib.store.alternator.wire.transport import Transport

OPERATIONS = {
    "BatchGetItem", "BatchWriteItem", "CreateTable", "DeleteItem", "DescribeTable",
    "GetItem", "ListTagsOfResource", "PutItem", "Query", "Scan",
    "UpdateItem",
}  # fmt: skip
FORBIDDEN = {
    "AttributeUpdates", "AttributesToGet", "ConditionalOperator", "DeletionProtectionEnabled",
    "Expected", "IndexName", "KeyConditions", "ProvisionedThroughput", "QueryFilter",
    "ReturnConsumedCapacity", "ReturnItemCollectionMetrics", "SSESpecification", "ScanFilter",
    "Select", "TableClass",
}  # fmt: skip
READS = {"BatchGetItem", "GetItem", "Query", "Scan"}
WRITES = {"DeleteItem", "PutItem", "UpdateItem"}
EXPRESSIONS = (
    "ConditionExpression",
    "FilterExpression",
    "KeyConditionExpression",
    "ProjectionExpression",
    "UpdateExpression",
)
EXPRESSION_MAX = 4096
PUTS_MAX = 25
GETS_MAX = 100


class OutsideProfile(AssertionError):
    """A request that ScyllaDB would refuse or understand otherwise."""


def check(action: str, body: Mapping[str, Any]) -> None:
    """Raise OutsideProfile, naming every rule that the request breaks."""
    broken = list(violations(action, body))
    if broken:
        raise OutsideProfile(f"{action} {body}: {'; '.join(broken)}")


def violations(action: str, body: Mapping[str, Any]) -> Iterator[str]:
    """Each rule that the request breaks, in words."""
    if action not in OPERATIONS:
        yield f"{action} is not used on Alternator"
    for name in sorted(FORBIDDEN & body.keys()):
        yield f"{name} must not be sent"
    yield from _expressions(body)
    if action in WRITES:
        yield from _write(action, body)
    elif action in READS:
        yield from _read(action, body)
    elif action == "BatchWriteItem":
        yield from _batch_write(body)
    elif action == "CreateTable":
        yield from _create_table(body)


def isolation_of(table: str) -> str:
    """The write isolation of a table by its name, whatever its prefix."""
    return next(known.isolation for known in TABLES if table.endswith(known.name))


def _expressions(body: Mapping[str, Any]) -> Iterator[str]:
    text = " ".join(body.get(name, "") for name in EXPRESSIONS)
    for kind, sign in (("ExpressionAttributeNames", "#"), ("ExpressionAttributeValues", ":")):
        used, defined = set(re.findall(rf"{sign}\w+", text)), set(body.get(kind, {}))
        if used != defined:
            yield f"{kind}: unused or undefined {sorted(used ^ defined)}"
    if any(len(body.get(name, "")) > EXPRESSION_MAX for name in EXPRESSIONS):
        yield f"an expression is longer than {EXPRESSION_MAX}"
    if re.search(r"(^|\s)(ADD|DELETE)\s", body.get("UpdateExpression", "")):
        yield "ADD and DELETE cannot be sent again"


def _between(body: Mapping[str, Any]) -> Iterator[str]:
    values = body.get("ExpressionAttributeValues", {})
    if ":low" in values and values[":low"]["S"] > values[":high"]["S"]:
        yield "BETWEEN with bounds in the wrong order"


def _write(action: str, body: Mapping[str, Any]) -> Iterator[str]:
    if isolation_of(body["TableName"]) == "always_use_lwt":
        if "ConditionExpression" not in body:
            yield "a write to an LWT table must be conditional"
        if body.get("ReturnValuesOnConditionCheckFailure") != "ALL_OLD":
            yield "a refused write must return what stands there"
        return
    if "ConditionExpression" in body or action == "UpdateItem":
        yield "a forbid_rmw table takes plain puts and deletes only"
    if body.get("ReturnValues", "NONE") != "NONE":
        yield "a forbid_rmw table returns nothing"


def _read(action: str, body: Mapping[str, Any]) -> Iterator[str]:
    wanted = list(body["RequestItems"].values()) if action == "BatchGetItem" else [body]
    if not all(part.get("ConsistentRead") for part in wanted):
        yield "decisions need consistent reads"
    yield from _between(body)
    if action == "BatchGetItem":
        keys = [str(key) for part in wanted for key in part["Keys"]]
        if not 0 < len(keys) <= GETS_MAX:
            yield f"{len(keys)} keys"
        if len(keys) != len(set(keys)):
            yield "a key twice"


def _batch_write(body: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for table, writes in body["RequestItems"].items():
        if isolation_of(table) != "forbid_rmw":
            yield f"{table} would turn the whole batch into LWT"
        for write in writes:
            row = (
                write["PutRequest"]["Item"]
                if "PutRequest" in write
                else write["DeleteRequest"]["Key"]
            )
            rows.append((table, row["slot"]["S"], row["at"]["S"]))
    if not 0 < len(rows) <= PUTS_MAX:
        yield f"{len(rows)} rows"
    if len(rows) != len(set(rows)):
        yield "a row twice"
    if not all(all(key) for key in rows):
        yield "an empty key"


def _create_table(body: Mapping[str, Any]) -> Iterator[str]:
    tags = {tag["Key"]: tag["Value"] for tag in body.get("Tags", [])}
    keys = body["KeySchema"]
    if body.get("BillingMode") != "PAY_PER_REQUEST":
        yield "BillingMode"
    if tags.get(ISOLATION) != isolation_of(body["TableName"]):
        yield "no write isolation"
    if [key["KeyType"] for key in keys] != ["HASH", "RANGE"][: len(keys)]:
        yield "HASH comes first"
    defined = body["AttributeDefinitions"]
    if [part["AttributeName"] for part in defined] != [key["AttributeName"] for key in keys]:
        yield "AttributeDefinitions name the keys and nothing else"
    if {part["AttributeType"] for part in defined} != {"S"}:
        yield "keys are strings"
    if body.keys() & {"GlobalSecondaryIndexes", "LocalSecondaryIndexes", "StreamSpecification"}:
        yield "no index and no stream"


class CheckedTransport(Transport):
    """A transport that refuses to send what is outside the profile."""

    async def send(self, request: Request, **options: Any) -> JsonObject:
        check(request.action, request.body)
        return await super().send(request, **options)

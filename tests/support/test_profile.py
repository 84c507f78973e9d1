"""The check of requests finds what it is there to find."""

from typing import Any

import pytest

from chalicelib.attempts import LEASE_MS
from chalicelib.config import Settings
from chalicelib.store.alternator import requests
from chalicelib.store.alternator.requests import Request
from chalicelib.store.alternator.wire.client import Client
from tests.support.fakes import NOON_MS, Ids, new_task
from tests.support.profile import OutsideProfile, check

TASK = new_task(Ids())
HELD = TASK.claimed(now_ms=NOON_MS, claim="c", processor="p")
AGAIN = HELD.claimed(now_ms=NOON_MS + LEASE_MS, claim="d", processor="q")


def test_conditional_writes_are_within() -> None:
    for request in (
        requests.create("tasks", TASK),
        requests.claim("tasks", TASK.id, claim="c", processor="p", now_ms=NOON_MS),
        requests.change("tasks", HELD, HELD.completed("x", now_ms=NOON_MS)),
        requests.change("tasks", HELD, HELD.failed("x", now_ms=NOON_MS)),
        requests.change("tasks", HELD, HELD.released(now_ms=NOON_MS, hint_due_ms=NOON_MS)),
        requests.change("tasks", HELD, AGAIN),
        requests.delete("tasks", TASK.id, now_ms=NOON_MS + LEASE_MS, token="t"),
        requests.warm_up("tasks"),
    ):
        check(*request)


ROW = {"slot": {"S": "0/1"}, "at": {"S": "2#x"}}
PUT = {"PutRequest": {"Item": ROW}}
KEYS = [{"AttributeName": "id", "KeyType": "HASH"}]
TABLE: dict[str, Any] = {
    "TableName": "tasks",
    "KeySchema": KEYS,
    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    "BillingMode": "PAY_PER_REQUEST",
    "Tags": [{"Key": "system:write_isolation", "Value": "always_use_lwt"}],
}


@pytest.mark.parametrize(
    ("action", "body", "rule"),
    [
        ("TransactWriteItems", {}, "not used on Alternator"),
        ("PutItem", {"TableName": "tasks", "Item": {}}, "must be conditional"),
        ("PutItem", {"TableName": "schedule", "ConditionExpression": "x"}, "plain puts"),
        ("UpdateItem", {"TableName": "timeline"}, "plain puts"),
        ("DeleteItem", {"TableName": "workers", "ReturnValues": "ALL_OLD"}, "returns nothing"),
        ("Query", {"TableName": "schedule"}, "consistent reads"),
        ("Query", {"ConsistentRead": True, "IndexName": "i"}, "IndexName must not be sent"),
        ("Query", {"ConsistentRead": True, "Select": "COUNT"}, "Select must not be sent"),
        ("Scan", {"ConsistentRead": True, "FilterExpression": "#a = :b"}, "undefined"),
        ("BatchWriteItem", {"RequestItems": {"schedule": [PUT, PUT]}}, "a row twice"),
        ("BatchWriteItem", {"RequestItems": {"p_tasks": [PUT]}}, "into LWT"),
        ("BatchWriteItem", {"RequestItems": {}}, "0 rows"),
        (
            "BatchGetItem",
            {"RequestItems": {"tasks": {"Keys": [{"id": {"S": "a"}}] * 2, "ConsistentRead": True}}},
            "a key twice",
        ),
        (
            "UpdateItem",
            {"TableName": "tasks", "UpdateExpression": "ADD #a :b", "ConditionExpression": "#c"},
            "cannot be sent again",
        ),
        ("CreateTable", TABLE | {"BillingMode": "PROVISIONED"}, "BillingMode"),
        ("CreateTable", TABLE | {"Tags": []}, "no write isolation"),
        ("CreateTable", TABLE | {"GlobalSecondaryIndexes": []}, "no index"),
        ("CreateTable", TABLE | {"TableClass": "STANDARD"}, "TableClass must not be sent"),
    ],
)
def test_request_outside_is_named(action: str, body: dict[str, Any], rule: str) -> None:
    with pytest.raises(OutsideProfile, match=rule):
        check(action, body)


def test_clients_of_the_tests_are_checked(client: Client, settings: Settings) -> None:
    body = {"TableName": f"{settings.table_prefix}tasks", "Item": {"id": {"S": "x"}}}
    with pytest.raises(OutsideProfile, match="must be conditional"):
        client.decide(Request("PutItem", body))

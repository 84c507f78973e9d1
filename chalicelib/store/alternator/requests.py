"""Every request about a task, as data: the DynamoDB JSON that is sent.

The conditional writes of a task's life are here, each once. Names are always written as
`#name` and declared by `_names`, so that no attribute can collide with a reserved word.
"""

import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, get_args

import msgspec

from chalicelib.attempts import LEASE_MS, Attempt, Outcome
from chalicelib.errors import UnreadableTask
from chalicelib.task import TOMBSTONE_S, Task, TaskState

JsonObject = dict[str, Any]
Item = Mapping[str, Mapping[str, Any]]


class Request(NamedTuple):
    """A DynamoDB operation and its body."""

    action: str
    body: JsonObject


_FIELDS = tuple(f.name for f in fields(Task))
_NUMBERS = frozenset(f.name for f in fields(Task) if f.type is int or int in get_args(f.type))
_COUNTERS = frozenset({"failures", "given_back"})
_TEXTS = frozenset({"claim", "attempts"})
"""Written as one JSON text each: a request costs the embedded engine by its values, not its bytes.

claim: token, processor and time of the latest claim; of a running task it is the last attempt.
attempts: number, processor, start, end, outcome and error of those that have ended.
"""
_PLAIN = {name: name in _NUMBERS for name in _FIELDS if name not in _TEXTS}
"""The other attributes, and which of them are numbers."""
_SWEPT = tuple(n for n in _FIELDS if n not in {"payload", "result", "error", "request_id"})
_STATES = {state.value: state for state in TaskState}
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


def encode_task(task: Task) -> JsonObject:
    """The record. What is None, a counter at 0 or empty is left out."""
    values = {name: _attribute(task, name) for name in _FIELDS}
    return {name: value for name, value in values.items() if value is not None}


def _attribute(task: Task, name: str) -> JsonObject | None:
    if name == "claim":
        return _claim_of(task) if task.claim is not None else None
    if name == "attempts":
        ended = [list(attempt) for attempt in task.ended_attempts]
        return _text(ended) if ended else None
    value = getattr(task, name)
    if value is None or (value == 0 and name in _COUNTERS):
        return None
    return {"N": str(value)} if isinstance(value, int) else {"S": value}


def _claim_of(task: Task) -> JsonObject:
    last = task.attempts[-1]
    assert task.claim is not None
    return _claim(task.claim, last.processor, last.started_ts_ms)


def _claim(token: str, processor: str, now_ms: int) -> JsonObject:
    return _text([token, processor, now_ms])


def _text(value: Sequence[Any]) -> JsonObject:
    return {"S": msgspec.json.encode(value).decode()}


def decode_task(item: Item) -> Task:
    """The task of a record. Attributes of a newer version are passed over."""
    try:
        values: dict[str, Any] = {
            name: int(value["N"]) if _PLAIN[name] else value["S"]
            for name, value in item.items()
            if name in _PLAIN
        }
        values["state"] = _STATES[values["state"]]
        ended = msgspec.json.decode(item["attempts"]["S"]) if "attempts" in item else []
        attempts = [*map(_decode_attempt, ended)]
        is_running = values["state"] is TaskState.RUNNING
        if is_running or "claim" in item:
            values["claim"], processor, started_ts_ms = msgspec.json.decode(item["claim"]["S"])
            if is_running:
                number = attempts[-1].number + 1 if attempts else 1
                attempts.append(Attempt(number, processor, started_ts_ms))
        return Task(**values, attempts=tuple(attempts))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UnreadableTask(f"record {item.get('id')}: {error!r}") from error


def _decode_attempt(values: Sequence[Any]) -> Attempt:
    number, processor, started_ts_ms, ended_ts_ms, outcome, error = values
    return Attempt(number, processor, started_ts_ms, ended_ts_ms, _OUTCOMES[outcome], error)


def create(table: str, task: Task) -> Request:
    body = {"TableName": table, "Item": encode_task(task)}
    return _conditional("PutItem", body | {"ConditionExpression": "attribute_not_exists(#id)"})


def claim(table: str, task_id: str, *, claim: str, processor: str, now_ms: int) -> Request:
    """Task.claimed of a scheduled task, in one round trip: it returns the whole task, or what
    stands instead."""
    return _conditional("UpdateItem", {
        "TableName": table,
        "Key": {"id": {"S": task_id}},
        "ConditionExpression": "#state = :scheduled AND #due_at_ms <= :now",
        "UpdateExpression": "SET #state = :running, #claim = :claim, #due_at_ms = :lease_end",
        "ExpressionAttributeValues": {
            ":scheduled": {"S": TaskState.SCHEDULED},
            ":running": {"S": TaskState.RUNNING},
            ":claim": _claim(claim, processor, now_ms),
            ":now": {"N": str(now_ms)},
            ":lease_end": {"N": str(now_ms + LEASE_MS)},
        },
        "ReturnValues": "ALL_NEW",
    })  # fmt: skip


def change(table: str, held: Task, changed: Task) -> Request:
    """Write what differs, if the claim of `held` still holds: a settlement, or the next claim
    after a lost lease."""
    was: JsonObject = {"state": {"S": TaskState.RUNNING}, "claim": _claim_of(held)}
    return _update(table, held, changed, was)


def retry(table: str, failed: Task, retried: Task) -> Request:
    """Task.retried, if the task is failed and neither run again nor deleted since."""
    was: JsonObject = {"state": {"S": TaskState.FAILED}, "token": {"S": failed.token}}
    return _update(table, failed, retried, was)


def _update(table: str, before: Task, changed: Task, was: JsonObject) -> Request:
    """Write what differs, if these attributes are as they were."""
    differing = [name for name in _FIELDS if getattr(changed, name) != getattr(before, name)]
    written = {name: _attribute(changed, name) for name in differing}
    values = {f":{name}": value for name, value in written.items() if value is not None}
    removed = [name for name, value in written.items() if value is None]
    update = "SET " + ", ".join(f"#{value[1:]} = {value}" for value in values)
    if removed:
        update += " REMOVE " + ", ".join(f"#{name}" for name in removed)
    values |= {f":was_{name}": value for name, value in was.items()}
    return _conditional("UpdateItem", {
        "TableName": table,
        "Key": {"id": {"S": before.id}},
        "ConditionExpression": " AND ".join(f"#{name} = :was_{name}" for name in was),
        "UpdateExpression": update,
        "ExpressionAttributeValues": values,
    })  # fmt: skip


def delete(table: str, task_id: str, *, now_ms: int, token: str) -> Request:
    """Task.deleted; it returns the task as it was, for the rows that led to it."""
    return _conditional("UpdateItem", {
        "TableName": table,
        "Key": {"id": {"S": task_id}},
        "ConditionExpression": (
            "attribute_exists(#id) AND #state <> :deleted"
            " AND (#state <> :running OR #due_at_ms <= :now)"
        ),
        "UpdateExpression": (
            "SET #state = :deleted, #token = :token, #purge_at_s = :purge"
            " REMOVE #due_at_ms, #claim"
        ),
        "ExpressionAttributeValues": {
            ":deleted": {"S": TaskState.DELETED},
            ":running": {"S": TaskState.RUNNING},
            ":token": {"S": token},
            ":now": {"N": str(now_ms)},
            ":purge": {"N": str(now_ms // 1000 + TOMBSTONE_S)},
        },
        "ReturnValues": "ALL_OLD",
    })  # fmt: skip


def forget(table: str, task: Task) -> Request:
    """Take away the record of a finished or deleted task that is still as it was seen. A task that
    was run again has another token; one that was created again, another time of creation."""
    return _conditional("DeleteItem", {
        "TableName": table,
        "Key": {"id": {"S": task.id}},
        "ConditionExpression": (
            "#state = :state AND #token = :token AND #created_ts_ms = :created_ts_ms"
        ),
        "ExpressionAttributeValues": {
            f":{name}": _attribute(task, name) for name in ("state", "token", "created_ts_ms")
        },
    })  # fmt: skip


def warm_up(table: str) -> Request:
    """A conditional write that changes nothing: the first one on a table can be slow."""
    return _conditional("UpdateItem", {
        "TableName": table,
        "Key": {"id": {"S": "warm-up"}},
        "ConditionExpression": "attribute_exists(#id)",
        "UpdateExpression": "SET #state = :deleted",
        "ExpressionAttributeValues": {":deleted": {"S": TaskState.DELETED}},
    })  # fmt: skip


def get(table: str, task_id: str) -> Request:
    return get_row(table, {"id": {"S": task_id}})


def get_row(table: str, key: Item) -> Request:
    return Request("GetItem", {"TableName": table, "Key": key, "ConsistentRead": True})


def get_many(table: str, keys: Sequence[Item]) -> Request:
    """At most 100 distinct keys; unprocessed ones come back and must be asked for again."""
    wanted = {"Keys": list(keys), "ConsistentRead": True}
    return Request("BatchGetItem", {"RequestItems": {table: wanted}})


def scan(table: str, segment: int, segments: int, start: Item | None) -> Request:
    body: JsonObject = {
        "TableName": table,
        "Segment": segment,
        "TotalSegments": segments,
        "ConsistentRead": True,
    }
    return Request("Scan", body | ({"ExclusiveStartKey": start} if start else {}))


def sweep(table: str, start: Item | None, limit: int, before_ms: int | None) -> Request:
    """A page of the tasks, without what they hold for clients. The store passes over completed
    ones, unless their `send_ts` is before a time. limit: tasks to look at, those among them."""
    filter = "#state <> :completed"
    values: JsonObject = {":completed": {"S": TaskState.COMPLETED}}
    names = {f"#{name}": name for name in _SWEPT}
    body = scan(table, 0, 1, start).body | {
        "Limit": limit,
        "ProjectionExpression": ", ".join(names),
        "ExpressionAttributeNames": names,
    }
    if before_ms is not None:
        filter += " OR #send_ts_ms < :before"
        values |= {":before": {"N": str(before_ms)}}
    return Request("Scan", body | {
        "FilterExpression": filter, "ExpressionAttributeValues": values,
    })  # fmt: skip


def query(
    table: str,
    key: str,
    value: str,
    *,
    between: tuple[str, str] | None = None,
    limit: int | None = None,
    descending: bool = False,
    types: Collection[str] | None = None,
    only_at: bool = False,
    range_key: str = "at",
) -> Request:
    """Rows of one partition in order of their range key, both bounds inclusive. types: leave out
    rows that tell another type; limit counts them all the same. only_at: of a row between bounds,
    tell no more."""
    names, values = {"#key": key}, {":key": {"S": value}}
    body: JsonObject = {"TableName": table, "KeyConditionExpression": "#key = :key"}
    body |= {"ExpressionAttributeNames": names, "ExpressionAttributeValues": values}
    body |= {"ConsistentRead": True, "ScanIndexForward": not descending}
    if between is not None:
        body["KeyConditionExpression"] += " AND #at BETWEEN :low AND :high"
        names["#at"] = range_key
        values |= {":low": {"S": between[0]}, ":high": {"S": between[1]}}
    if types is not None:
        body["FilterExpression"] = _of_types(types, names, values)
    if only_at:
        body["ProjectionExpression"] = "#at"
    if limit is not None:
        body["Limit"] = limit
    return Request("Query", body)


def _of_types(types: Collection[str], names: JsonObject, values: JsonObject) -> str:
    """Rows that tell no type, or one of these."""
    wanted = {f":type{number}": {"S": type} for number, type in enumerate(sorted(types))}
    names["#type"] = "type"
    values |= wanted
    return f"attribute_not_exists(#type) OR #type IN ({', '.join(wanted)})"


def write_rows(
    puts: Mapping[str, Iterable[Item]], deletes: Mapping[str, Iterable[Item]]
) -> Request:
    """Plain puts and deletes by table, at most 25 together, no key twice."""
    rows: dict[str, list[JsonObject]] = {}
    for table, items in puts.items():
        rows.setdefault(table, []).extend({"PutRequest": {"Item": item}} for item in items)
    for table, keys in deletes.items():
        rows.setdefault(table, []).extend({"DeleteRequest": {"Key": key}} for key in keys)
    return Request("BatchWriteItem", {"RequestItems": rows})


def put_row(table: str, item: Item) -> Request:
    return Request("PutItem", {"TableName": table, "Item": item})


def delete_row(table: str, key: Item) -> Request:
    return Request("DeleteItem", {"TableName": table, "Key": key})


def was_settled(item: Item | None, held: Task, settled: Task) -> bool:
    """Whether a refused settlement had been applied before."""
    return _bears(item, {"claim": _claim_of(held), "state": {"S": settled.state}})


def was_deleted(item: Item | None, token: str) -> bool:
    """Whether a refused delete had been applied before."""
    return _bears(item, {"token": {"S": token}, "state": {"S": TaskState.DELETED}})


def _bears(item: Item | None, values: JsonObject) -> bool:
    return item is not None and all(item.get(name) == value for name, value in values.items())


def _conditional(action: str, body: JsonObject) -> Request:
    expressions = body["ConditionExpression"] + " " + body.get("UpdateExpression", "")
    body["ExpressionAttributeNames"] = _names(expressions)
    body["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
    return Request(action, body)


@functools.lru_cache(maxsize=128)
def _names(expressions: str) -> dict[str, str]:
    return {name: name[1:] for name in sorted(set(re.findall(r"#\w+", expressions)))}

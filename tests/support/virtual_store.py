"""A store that can do only so much, on the virtual clock, behind the real client.

Each node works its requests off one after the other, those that nobody waits for any more too: a
connection that is closed takes nothing out of the queue. Underneath are real tables of what
Alternator is asked by this service. The client's own connections end here, at the event loop.
"""

import asyncio
import bisect
import functools
import json
import math
import operator
import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, cast

from chalicelib.store.alternator import requests
from chalicelib.store.alternator.places import Indexes
from chalicelib.store.alternator.requests import JsonObject
from chalicelib.task import Task
from tests.support import profile
from tests.support.fakes import NOON_MS, VirtualLoop

PORT = 8000
NETWORK_S = 0.0005
COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<>": operator.ne, "<=": operator.le, "<": operator.lt,
}  # fmt: skip
RANGE_KEYS = ("at", "processor")


class Tables:
    """Items by table and key, with the expressions that the service sends."""

    def __init__(self) -> None:
        self._items: dict[str, dict[str, dict[str, JsonObject]]] = {}
        self._order: dict[tuple[str, str], list[str]] = {}

    def put_task(self, task: Task, indexes: Indexes, table: str = "tasks") -> None:
        """As if it had been created long ago."""
        task = indexes.placed(task, 0)
        names = [row for bucket in indexes.buckets(task) for row in bucket.names]
        for row in names + indexes.rows(task):
            self.put(row.table, row.item)
        self.put(table, requests.encode_task(task))

    def tasks(self, table: str = "tasks") -> list[Task]:
        partitions = self._items.get(table, {}).values()
        return [requests.decode_task(item) for rows in partitions for item in rows.values()]

    def put(self, table: str, item: JsonObject) -> None:
        hash_key, range_key = _key(item)
        rows = self._items.setdefault(table, {}).setdefault(hash_key, {})
        if range_key not in rows:
            bisect.insort(self._order.setdefault((table, hash_key), []), range_key)
        rows[range_key] = item

    def find(self, table: str, key: JsonObject) -> JsonObject | None:
        hash_key, range_key = _key(key)
        return self._items.get(table, {}).get(hash_key, {}).get(range_key)

    def remove(self, table: str, key: JsonObject) -> None:
        hash_key, range_key = _key(key)
        if self._items.get(table, {}).get(hash_key, {}).pop(range_key, None) is not None:
            self._order[table, hash_key].remove(range_key)

    def answer(self, action: str, body: JsonObject) -> tuple[int, JsonObject]:
        """Status and content."""
        act: Callable[[JsonObject], tuple[int, JsonObject]] = getattr(self, f"_{action}")
        return act(body)

    def _GetItem(self, body: JsonObject) -> tuple[int, JsonObject]:
        item = self.find(body["TableName"], body["Key"])
        return 200, {} if item is None else {"Item": item}

    def _BatchGetItem(self, body: JsonObject) -> tuple[int, JsonObject]:
        found = {
            table: [i for key in wanted["Keys"] if (i := self.find(table, key)) is not None]
            for table, wanted in body["RequestItems"].items()
        }
        return 200, {"Responses": found, "UnprocessedKeys": {}}

    def _BatchWriteItem(self, body: JsonObject) -> tuple[int, JsonObject]:
        for table, writes in body["RequestItems"].items():
            for write in writes:
                if "PutRequest" in write:
                    self.put(table, write["PutRequest"]["Item"])
                else:
                    self.remove(table, write["DeleteRequest"]["Key"])
        return 200, {"UnprocessedItems": {}}

    def _PutItem(self, body: JsonObject) -> tuple[int, JsonObject]:
        before = self.find(body["TableName"], body["Item"])
        if not _holds(body, before):
            return _refused(before)
        self.put(body["TableName"], body["Item"])
        return 200, {}

    def _DeleteItem(self, body: JsonObject) -> tuple[int, JsonObject]:
        before = self.find(body["TableName"], body["Key"])
        if not _holds(body, before):
            return _refused(before)
        self.remove(body["TableName"], body["Key"])
        return 200, {}

    def _UpdateItem(self, body: JsonObject) -> tuple[int, JsonObject]:
        before = self.find(body["TableName"], body["Key"])
        if not _holds(body, before):
            return _refused(before)
        after = {**body["Key"], **(before or {})}
        sets, removes = _changes(body["UpdateExpression"])
        names, values = body["ExpressionAttributeNames"], body["ExpressionAttributeValues"]
        after |= {names[name]: values[value] for name, value in sets}
        for name in removes:
            after.pop(names[name], None)
        self.put(body["TableName"], after)
        shown = {"ALL_NEW": after, "ALL_OLD": before}.get(body.get("ReturnValues", ""))
        return 200, {} if shown is None else {"Attributes": shown}

    def _Query(self, body: JsonObject) -> tuple[int, JsonObject]:
        table, values = body["TableName"], body["ExpressionAttributeValues"]
        hash_key = values[":key"]["S"]
        order = self._order.get((table, hash_key), [])
        low, high = (
            values.get(name, {"S": text})["S"] for name, text in ((":low", ""), (":high", "~"))
        )
        chosen = order[bisect.bisect_left(order, low) : bisect.bisect_right(order, high)]
        if not body["ScanIndexForward"]:
            chosen = chosen[::-1]
        if "ExclusiveStartKey" in body:
            start = _key(body["ExclusiveStartKey"])[1]  # It may be gone by now.
            chosen = [
                at for at in chosen if (at > start) == body["ScanIndexForward"] and at != start
            ]
        limit = body.get("Limit", len(chosen) + 1)
        rows = self._items.get(table, {}).get(hash_key, {})
        items = [rows[at] for at in chosen[:limit]]
        answer: JsonObject = {"Items": _of_types(items, body), "ScannedCount": len(items)}
        if len(chosen) >= limit:
            last = items[-1]
            keys = (body["ExpressionAttributeNames"]["#key"], *RANGE_KEYS)
            answer["LastEvaluatedKey"] = {name: last[name] for name in keys if name in last}
        return 200, answer

    def _Scan(self, body: JsonObject) -> tuple[int, JsonObject]:
        partitions = self._items.get(body["TableName"], {})
        chosen = sorted(partitions)[body["Segment"] :: body["TotalSegments"]]
        start = _key(body["ExclusiveStartKey"])[0] if "ExclusiveStartKey" in body else ""
        rows = [item for name in chosen if name > start for item in partitions[name].values()]
        looked = rows[: body.get("Limit", len(rows) + 1)]
        items = [one for one in looked if _holds(body, one, "FilterExpression")]
        answer: JsonObject = {"Items": items, "ScannedCount": len(looked)}
        if len(looked) == body.get("Limit"):
            answer["LastEvaluatedKey"] = {"id": looked[-1]["id"]}
        return 200, answer


def _key(item: Mapping[str, JsonObject]) -> tuple[str, str]:
    hash_key = next(item[name]["S"] for name in ("id", "slot", "fleet") if name in item)
    range_key = next((item[name]["S"] for name in RANGE_KEYS if name in item), "")
    return hash_key, range_key


def _of_types(items: Sequence[JsonObject], body: JsonObject) -> Sequence[JsonObject]:
    """What the one filter that the service sends leaves."""
    if "FilterExpression" not in body:
        return items
    values = body["ExpressionAttributeValues"]
    wanted = {value["S"] for name, value in values.items() if name.startswith(":type")}
    return [item for item in items if "type" not in item or item["type"]["S"] in wanted]


def _refused(item: JsonObject | None) -> tuple[int, JsonObject]:
    shown = {} if item is None else {"Item": item}
    return 400, {"__type": "x#ConditionalCheckFailedException", "message": "no", **shown}


def _holds(
    body: JsonObject, item: JsonObject | None, expression: str = "ConditionExpression"
) -> bool:
    if expression not in body:
        return True
    names, values = body["ExpressionAttributeNames"], body.get("ExpressionAttributeValues", {})

    def compare(name: str, sign: str, value: str) -> bool:
        found = (item or {}).get(names[name])
        if found is None:
            return sign == "<>"
        (one,), (two,) = found.values(), values[value].values()
        if "N" in found:
            one, two = int(one), int(two)
        return bool(COMPARE[sign](one, two))

    has = {"has": lambda name: names[name] in (item or {}), "compare": compare}
    return bool(eval(_condition(body[expression]), has))


@functools.cache
def _condition(expression: str) -> Any:
    text = re.sub(r"attribute_exists\((#\w+)\)", r"has('\1')", expression)
    text = re.sub(r"attribute_not_exists\((#\w+)\)", r"not has('\1')", text)
    text = re.sub(r"(#\w+) (<=|<>|=|<) (:\w+)", r"compare('\1', '\2', '\3')", text)
    return compile(text.replace(" AND ", " and ").replace(" OR ", " or "), "condition", "eval")


@functools.cache
def _changes(expression: str) -> tuple[list[tuple[str, str]], list[str]]:
    sets, _, removes = expression.removeprefix("SET ").partition(" REMOVE ")
    pairs = [cast("tuple[str, str]", tuple(part.split(" = "))) for part in sets.split(", ")]
    return pairs, [name for name in removes.split(", ") if name]


@dataclass
class Costs:
    """How long one request takes a node, in seconds."""

    conditional_s: float = 0.007
    plain_s: float = 0.0015


@dataclass
class Queued:
    """A request at a node."""

    action: str
    body: JsonObject
    wire: "VirtualWire"


@dataclass
class VirtualNode:
    """One node: a queue before shared tables.

    slowness: by how much its requests take longer. is_stopped: it works on nothing, but listens.
    is_failing: it says 500 to everything at once. is_gone: nobody listens. network_s: one way.
    clock_off_ms: how far its clock is wrong. date_phase_s: when in each second it renews its Date;
    None: it writes each anew.
    """

    host: str
    tables: Tables
    hosts: Collection[str]
    costs: Costs = field(default_factory=Costs)
    slowness: float = 1.0
    is_failing: bool = False
    is_gone: bool = False
    network_s: float = NETWORK_S
    clock_off_ms: int = 0
    date_phase_s: float | None = None
    counts: Counter[str] = field(default_factory=Counter)
    _queue: deque[Queued] = field(default_factory=deque)
    _is_working: bool = False
    _is_stopped: bool = False

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def stop(self) -> None:
        self._is_stopped = True

    def go_on(self) -> None:
        self._is_stopped = False
        self._work()

    def receive(self, message: bytes, wire: "VirtualWire") -> None:
        head, _, body = message.partition(b"\r\n\r\n")
        target = re.search(rb"(?i)x-amz-target: \w+\.(\w+)", head)
        action = target[1].decode() if target else "localnodes"
        self.counts["asked"] += 1
        self.counts[f"asked {action}"] += 1
        content = json.loads(body) if body else {}
        if target:
            profile.check(action, content)
        if self.is_failing:
            self.counts["failed"] += 1
            wire.later(self._http(500, {"__type": "x#InternalServerError", "message": "no quorum"}))
            return
        if action == "localnodes":  # A real node needs no data for this.
            wire.later(self._http(200, list(self.hosts)))
            return
        self._queue.append(Queued(action, content, wire))
        self._work()

    def _work(self) -> None:
        if self._queue and not self._is_working and not self._is_stopped:
            self._is_working = True
            first = self._queue[0]
            is_conditional = "ConditionExpression" in first.body
            cost_s = self.costs.conditional_s if is_conditional else self.costs.plain_s
            asyncio.get_running_loop().call_later(cost_s * self.slowness, self._finish)

    def _finish(self) -> None:
        first = self._queue.popleft()
        self._is_working = False
        status, content = self.tables.answer(first.action, first.body)
        answer = self._http(status, content)
        self.counts["refused"] += status == 400
        self.counts["abandoned" if first.wire.is_closing() else "answered"] += 1
        first.wire.later(answer)
        self._work()

    def _http(self, status: int, content: object) -> bytes:
        body = json.dumps(content).encode()
        lines = (
            f"HTTP/1.1 {status} X",
            f"Date: {formatdate(self._dated_s(), usegmt=True)}",
            *(["Server: Dynoxide/1"] if self.date_phase_s is None else []),
            f"Content-Length: {len(body)}",
            "",
            "",
        )
        return "\r\n".join(lines).encode() + body

    def _dated_s(self) -> int:
        now_s = (NOON_MS + self.clock_off_ms) / 1000 + asyncio.get_running_loop().time()
        if self.date_phase_s is not None:
            now_s = math.floor(now_s - self.date_phase_s) + self.date_phase_s
        return math.floor(now_s)


class VirtualWire(asyncio.Transport):
    """The client's end of a connection to a node."""

    def __init__(self, node: VirtualNode, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._node = node
        self._protocol = protocol
        self._is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(self._node.network_s, self._node.receive, bytes(data), self)

    def later(self, answer: bytes) -> None:
        asyncio.get_running_loop().call_later(self._node.network_s, self._deliver, answer)

    def _deliver(self, answer: bytes) -> None:
        if not self._is_closed:
            self._protocol.data_received(answer)

    def is_closing(self) -> bool:
        return self._is_closed

    def abort(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


class WiredLoop(VirtualLoop):
    """A virtual loop whose connections lead to virtual nodes."""

    def __init__(self, nodes: Sequence[VirtualNode]) -> None:
        super().__init__()
        self._nodes = {node.host: node for node in nodes}

    async def create_connection(  # type: ignore[override]
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int, *, ssl: object
    ) -> tuple[VirtualWire, asyncio.Protocol]:
        await asyncio.sleep(NETWORK_S)
        node = self._nodes[host]
        if node.is_gone:
            raise ConnectionRefusedError(host)
        protocol = factory()
        wire = VirtualWire(node, protocol)
        protocol.connection_made(wire)
        return wire, protocol


def opened(count: int = 1) -> list[VirtualNode]:
    """Nodes of one store."""
    hosts = [f"127.0.0.{number}" for number in range(1, count + 1)]
    tables = Tables()
    return [VirtualNode(host, tables, hosts) for host in hosts]


def endpoint(node: VirtualNode) -> str:
    return f"http://{node.host}:{PORT}"

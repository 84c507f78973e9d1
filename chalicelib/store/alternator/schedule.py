"""The schedule: hints for processors, by shard and time.

    partition <shard>/<bucket>   hints <due_at>#<id>
    partition <shard>            the shard's directory: one row <bucket> a bucket
    partition shards             the highest shard in use

A bucket is read if the directory of its shard names it. Whoever creates many tasks at once names
their buckets for all shards: afterwards they are known, whatever shard the next tasks are in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chalicelib.store.alternator.requests import Item
from chalicelib.store.alternator.rows import Row, at, position_of, start_of, time_key
from chalicelib.store.contract import Hint

BUCKET_MS = 300_000
CLOSE_AFTER_MS = 300_000
"""A drained bucket may be closed this long after its end."""
ROOT = "shards"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Keys. shards: those configured."""

    table: str
    shards: int

    def hint_row(self, shard: int, due_at_ms: int, task_id: str, task_type: str) -> Row:
        slot = self.slot(shard, self.bucket_of(due_at_ms))
        return Row(self.table, slot, at(due_at_ms, task_id), task_type)

    def row_of(self, hint: Hint) -> Row:
        return self.hint_row(hint.shard, hint.due_at_ms, hint.id, hint.type)

    def bucket_of(self, time_ms: int) -> int:
        """Start of the bucket that holds this time, in milliseconds since the epoch."""
        return start_of(time_ms, BUCKET_MS)

    def slot(self, shard: int, bucket: int) -> str:
        return f"{shard}/{time_key(bucket)}"

    def directory(self, shard: int) -> str:
        return str(shard)

    def bucket_row(self, shard: int, bucket: int) -> Row:
        return Row(self.table, self.directory(shard), time_key(bucket))

    def may_close(self, bucket: int, now_ms: int) -> bool:
        return bucket + BUCKET_MS + CLOSE_AFTER_MS < now_ms


class HintBucket(NamedTuple):
    """One bucket of one shard. shards: how many there are, as far as is known."""

    schedule: Schedule
    shard: int
    start_ms: int
    shards: int

    @property
    def names(self) -> Sequence[Row]:
        """The row that tells how many shards there are, and the one in the directory."""
        root = Row(self.schedule.table, ROOT, f"{self.shards - 1:05d}")
        return [root, self.schedule.bucket_row(self.shard, self.start_ms)]

    def is_over(self, now_ms: int) -> bool:
        """Whether it has ended, and may be closed by others."""
        return self.start_ms + BUCKET_MS <= now_ms

    def of_all_shards(self) -> "Sequence[HintBucket]":
        return [self._replace(shard=shard) for shard in range(self.shards)]


def hint_of(item: Item) -> Hint:
    due_at_ms, task_id = position_of(item["at"]["S"])
    shard = int(item["slot"]["S"].partition("/")[0])
    return Hint(due_at_ms, task_id, item.get("type", {}).get("S", ""), shard)

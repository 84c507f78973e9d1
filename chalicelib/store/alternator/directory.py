"""What the directories of a time index name."""

from chalicelib.store.alternator import requests
from chalicelib.store.alternator.time_index import TimeIndex
from chalicelib.store.alternator.wire.gate import Rank
from chalicelib.store.alternator.wire.requester import Requester


async def named_shards(
    requester: Requester, index: TimeIndex, *, rank: Rank | None = None
) -> set[int]:
    """The shards in which the index has or had rows. Raises StoreUnavailable."""
    root = requests.query(index.table, "slot", index.root)
    return {int(row["at"]["S"]) async for row in requester.items(root, rank=rank)}

"""Which processor owns a shard."""

from chalicelib.store import ownership


def test_few_shards_move_when_a_processor_comes() -> None:
    before = {shard: ownership.owner(shard, ("a", "b", "c")) for shard in range(256)}
    after = {shard: ownership.owner(shard, ("a", "b", "c", "d")) for shard in range(256)}
    moved = [shard for shard in before if before[shard] != after[shard]]
    assert {after[shard] for shard in moved} == {"d"}
    assert 32 < len(moved) < 96

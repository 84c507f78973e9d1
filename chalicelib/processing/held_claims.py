"""The claims of a processor, in memory that outlives its process.

Whoever takes the place of a dead process finds here what that one held, or had asked for. The store
alone decides whether it still holds it. A process can be killed between any two bytes: an entry
counts only with its checksum, which is written last and erased first.
"""

import struct
import uuid
import zlib
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from chalicelib.attempts import LEASE_MS
from chalicelib.store.contract import Hint

TYPE_BYTES_MAX = 63
"""A task type with a longer name is not noted here; its tasks wait for their leases."""
_BODY = struct.Struct(f"=16s16sqId{TYPE_BYTES_MAX + 1}p")
_CHECK = struct.Struct("=I")
_ENTRY_BYTES = _BODY.size + _CHECK.size
_ENTRIES_PER_PLACE = 4
"""Room for what runs, for what was lost, and for claims whose outcome is not known."""
_NOTHING = _CHECK.pack(0)
_HEAD = struct.Struct("=16sI")


@dataclass(slots=True)
class Lost:
    """What is known of one task of the dead.

    hint: of the latest claim. claims: one of them may hold the task; the entry of each.
    """

    hint: Hint
    claims: dict[str, int] = field(default_factory=dict)


class _Entry(NamedTuple):
    claimed_s: float
    hint: Hint
    claim: str


class HeldClaims:
    """memory: of `memory_bytes`, at first zeros. What it has no room for is not noted.

    predecessor: the id of the processor that had it before, if it is known to be dead.
    left: what the dead left behind, by task id. It counts as lost once `take_over` was called.
    """

    def __init__(self, memory: bytearray | memoryview, now_s: float) -> None:
        """now_s: the monotonic time. What was claimed longer ago than a lease is not read."""
        self._memory = memoryview(memory)
        self.predecessor = self._signature()
        self.left: dict[str, Lost] = {}
        self._lost: dict[str, Lost] = {}
        numbers = range((len(self._memory) - _HEAD.size) // _ENTRY_BYTES)
        found = [(entry, number) for number in numbers if (entry := self._read(number))]
        for entry, number in sorted(found):
            if now_s - entry.claimed_s <= LEASE_MS / 1000:
                lost = self.left.setdefault(entry.hint.id, Lost(entry.hint))
                lost.hint = entry.hint
                lost.claims[entry.claim] = number
        kept = {number for lost in self.left.values() for number in lost.claims.values()}
        self._free = deque(number for number in numbers if number not in kept)

    def sign(self, processor: str) -> None:
        """The memory is this processor's from now on."""
        if self._memory:
            id = uuid.UUID(processor).bytes
            _HEAD.pack_into(self._memory, 0, id, zlib.crc32(id))

    def put(self, hint: Hint, claim: str, claimed_s: float) -> int | None:
        """Note a claim that is about to be sent. None if there is no room for it."""
        type = hint.type.encode()
        if not self._free or len(type) > TYPE_BYTES_MAX:
            return None
        task_id, token = uuid.UUID(hint.id).bytes, uuid.UUID(claim).bytes
        body = _BODY.pack(task_id, token, hint.due_at_ms, hint.shard, claimed_s, type)
        number = self._free.popleft()
        self.erase(number)
        start = self._start(number)
        self._memory[start : start + _BODY.size] = body
        _CHECK.pack_into(self._memory, start + _BODY.size, zlib.crc32(body))
        return number

    def erase(self, number: int | None) -> None:
        """It is known that this claim does not hold its task, or does no more."""
        if number is not None:
            end = self._start(number + 1)
            self._memory[end - _CHECK.size : end] = _NOTHING

    def leave(self, number: int | None) -> None:
        """Nothing more comes of this entry. If it was not erased, it stays while there is room."""
        if number is not None:
            self._free.append(number)

    def take_over(self) -> Sequence[Hint]:
        """Nothing of the dead lives any more: their claims are lost. Where to look for them."""
        self._lost = self.left
        return sorted(lost.hint for lost in self._lost.values())

    def lost_claims(self, task_id: str) -> Collection[str]:
        """Claims for this task that are known to be lost; empty if there are none."""
        lost = self._lost.get(task_id)
        return lost.claims if lost is not None else ()

    def forget(self, task_id: str) -> None:
        """It is known what became of the dead's claims for this task."""
        if (lost := self._lost.pop(task_id, None)) is not None:
            for number in lost.claims.values():
                self.erase(number)
                self.leave(number)

    def _start(self, number: int) -> int:
        return _HEAD.size + number * _ENTRY_BYTES

    def _signature(self) -> str | None:
        if not self._memory:
            return None
        id, check = _HEAD.unpack_from(self._memory, 0)
        return str(uuid.UUID(bytes=id)) if check and check == zlib.crc32(id) else None

    def _read(self, number: int) -> _Entry | None:
        start = self._start(number)
        body = bytes(self._memory[start : start + _BODY.size])
        (check,) = _CHECK.unpack_from(self._memory, start + _BODY.size)
        if check == 0 or check != zlib.crc32(body):
            return None
        task_id, token, due_at_ms, shard, claimed_s, type = _BODY.unpack(body)
        hint = Hint(due_at_ms, str(uuid.UUID(bytes=task_id)), type.decode(), shard)
        return _Entry(claimed_s, hint, str(uuid.UUID(bytes=token)))


def memory_bytes(places: int) -> int:
    """How much memory the claims of so many places need."""
    return _HEAD.size + places * _ENTRIES_PER_PLACE * _ENTRY_BYTES

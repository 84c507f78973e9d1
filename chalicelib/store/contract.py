"""The contract of the store, as two typed protocols. Their docstrings are the specification.

`TaskStore` serves the views, `TaskQueue` the processors; both see the same tasks. The `tasks`
are the authority. The rows that lead to them (hints for processors, the timeline for lists) may
be late, surplus or repeated, never trusted, and never missing for long.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from chalicelib.errors import SchedulerError
from chalicelib.statistics import StatisticsPage, StatisticsRow, Step
from chalicelib.task import UNFINISHED, Task, TaskState

SLOW_DELAY_S = 0.05
SLOW_ANSWER_S = 1.0
PAGE_PAYLOAD_CHARS = 1_000_000
"""A page ends when the payloads in it come to this: an answer of Lambda is at most 6 MB."""


class Position(NamedTuple):
    """A place in the order of a list: by `send_ts`, then id."""

    send_ts_ms: int
    id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFilter:
    """What a list shows: [since, until) on `send_ts`, of these states and types.

    None means "any". after: strictly behind this position, in the order asked for.
    """

    states: frozenset[TaskState] | None = None
    types: frozenset[str] | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    limit: int = 50
    after: Position | None = None
    descending: bool = False

    @property
    def indexes(self) -> Sequence[str]:
        """The fewest of `all`, `open` (unfinished tasks) and `failed` that lead to all of them."""
        if self.states is None or TaskState.COMPLETED in self.states:
            return ["all"]
        failed = ["failed"] if TaskState.FAILED in self.states else []
        return [*failed, "open"] if self.states & UNFINISHED else failed

    def is_ahead(self, position: Position) -> bool:
        """Whether the position stands behind `after` in the order asked for."""
        if self.after is None:
            return True
        return position < self.after if self.descending else position > self.after

    def accepts(self, task: Task) -> bool:
        """Whether state, type and time fit; where in the list it stands is not asked here."""
        return (
            task.state is not TaskState.DELETED
            and (self.states is None or task.state in self.states)
            and (self.types is None or task.type in self.types)
            and (self.since_ms is None or task.send_ts_ms >= self.since_ms)
            and (self.until_ms is None or task.send_ts_ms < self.until_ms)
        )


@dataclass(frozen=True, slots=True)
class TaskPage:
    """tasks: in order, at most `limit`, perhaps fewer; next: where to go on, None at the end."""

    tasks: Sequence[Task]
    next: Position | None


class TaskStore(Protocol):
    """What the views need. Blocking, safe to call from many threads.

    Every method raises StoreUnavailable when the store does not answer in time.
    """

    def create(self, task: Task) -> Task:
        """Store a new task (see Task.new) and return it as it now is.

        A create whose answer was lost may be repeated with the same task: its token tells that
        it is the same create. The returned task may already have moved on. A task of another
        create under the same id is left as it is, and TaskExists is raised with that task as
        last committed, a tombstone included.
        """

    def create_many(self, tasks: Sequence[Task]) -> Sequence[Task | SchedulerError]:
        """Store up to 100 new tasks of different ids, each as by `create`, side by side.

        What `create` would raise for a task stands in its place.
        """

    def get(self, task_id: str) -> Task:
        """The task as last committed. Raises TaskNotFound, also once it is deleted."""

    def list(self, filter: TaskFilter) -> TaskPage:
        """A page of tasks by (send_ts, id), each as last committed.

        Following `next` to its end shows every task that fitted the filter throughout the walk
        exactly once. A page can be short, even empty, and still have a `next`.
        """

    def delete(self, task_id: str, *, now_ms: int, token: str) -> None:
        """Leave a tombstone. After this returns, no attempt of the task starts or settles.

        Raises TaskNotFound if there is no task, TaskRunning while it runs under its lease.
        """

    def retry(self, task_id: str, *, now_ms: int, token: str) -> Task:
        """Run a failed task again: Task.retried. Returns the task as it now is.

        May be repeated with the same token, also when the task has moved on: it is run again once.
        Raises TaskNotFound if there is no task, TaskNotFailed if it is in any other state.
        """

    def heartbeats(self) -> Sequence["Heartbeat"]:
        """The rows of all processors, dead ones included."""

    def statistics(self, step: Step, *, since_ms: int, until_ms: int) -> StatisticsPage:
        """Rows of all processors that start within [since, until), in no order.

        Takes at most about 12 requests, or one for each day. Rows can be missing, of which the
        store has lost track, or whose time to live is over.
        """

    def has_hint(self, task: Task) -> bool:
        """Whether the hint stands that leads processors to this scheduled task."""

    def pressure(self) -> "Pressure":
        """How the store bears what this process asks of it."""

    def check(self) -> None:
        """Raise StoreMismatch unless the tables are as this version needs them."""

    def check_writes(self) -> None:
        """Put a row that nobody reads in place of the last one.

        Raises StoreReadOnly if the store does not take it.
        """


class Hint(NamedTuple):
    """Look at this task at this time. A hint may be stale; the task decides.

    shard: in which its row stands.
    """

    due_at_ms: int
    id: str
    type: str
    shard: int


class HintPage(NamedTuple):
    """hints: ordered by (due_at, id); next: pass to `due` to go on, None at the end."""

    hints: Sequence[Hint]
    next: str | None


class Refused(NamedTuple):
    """A claim that was not granted; task: what stands there instead, None if nothing does."""

    task: Task | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pressure:
    """How the store bears what one process asks of it.

    requests: how many may be at the store at once. latency_s: how long an answer takes. delay_s: by
    how much that is longer than at best. is_reduced: `requests` had to be reduced some seconds ago.
    is_failing: nothing but errors come back.
    """

    requests: float
    latency_s: float
    delay_s: float = 0.0
    is_reduced: bool = False
    is_failing: bool = False

    @property
    def is_slow(self) -> bool:
        """It is asked less than could be asked of it at its best."""
        is_late = self.delay_s > SLOW_DELAY_S or self.latency_s > SLOW_ANSWER_S
        return self.is_failing or self.is_reduced or is_late


NO_PRESSURE = Pressure(requests=math.inf, latency_s=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """A live processor's row. kind: worker or tick.

    written_ms: what the time was for it when it wrote. interval_ms: the next one is to follow
    within this.
    held_back_s: for how long the oldest ready hint has waited for the store's sake; 0 for none.
    wakeup: the address and UDP port at which it takes wake-up messages; None if it takes none.
    host, version: of the machine and the service. places, taken: how many tasks may run at once,
    and how many do. None in those of earlier versions.
    """

    processor: str
    kind: str
    written_ms: int
    interval_ms: int = 1_000
    held_back_s: int = 0
    wakeup: str | None = None
    host: str | None = None
    version: str | None = None
    places: int | None = None
    taken: int | None = None


class TaskQueue(Protocol):
    """What a processor needs.

    Every method raises StoreUnavailable when the store does not answer; for a claim or a
    settlement this means that its outcome is unknown. `until_s` is a reading of the monotonic
    clock after which an unknown outcome is no longer chased.
    """

    async def shards(self) -> Collection[int]:
        """The shards that may hold hints: those configured and those that were used before."""

    async def occupied(
        self, shards: Collection[int], *, since_ms: int, until_ms: int
    ) -> Collection[int]:
        """Those of these shards that may hold hints with since <= due_at < until.

        The others hold none. Of many shards this is asked together: it costs less than `due`.
        """

    async def due(
        self, shard: int, *, since_ms: int | None, until_ms: int, limit: int, resume: str | None
    ) -> HintPage:
        """Hints with since <= due_at < until, at most about `limit`.

        since_ms None looks from the very beginning. resume: `next` of the page before.
        """

    def may_claim(self, claiming: int, held: int) -> bool:
        """Whether one more claim can be answered in time, and what is held be settled in time.

        claiming: claims that wait for their answer. held: tasks that are not yet settled.
        """

    async def claim(
        self, hint: Hint, *, claim: str, processor: str, now_ms: int, until_s: float
    ) -> Task | Refused:
        """Take the task if it is due at `now_ms`: Task.claimed, decided by the store alone.

        A task whose lease was lost takes two writes, each with as much time as `until_s` gives.
        Raises StoreBusy if it was not sent: the task is as it was.
        Raises UnreadableTask for a record that this version cannot read; it is left as it is.
        """

    async def take_over(
        self,
        hint: Hint,
        *,
        lost: Collection[str],
        claim: str,
        processor: str,
        now_ms: int,
        until_s: float,
    ) -> Task | Refused:
        """Take the task also from the claims `lost`, whose lease need not be over: Task.taken_over.

        lost: claims for this task whose process is known to be dead, with all that it started. If
        none of them holds the task, this is `claim`; it is, too, what this raises. A claim of the
        dead that is applied only now, or never, makes no difference.
        """

    async def settle(self, held: Task, settled: Task, *, until_s: float) -> bool:
        """Write `settled` in place of `held` if `held.claim` still holds the task.

        held: the task as `claim` gave it. False if its claim holds no more: the lease was lost,
        and nothing was changed. If `settled` is scheduled again, its hint is put before the task
        is written.
        """

    async def get(self, task_ids: Collection[str]) -> Mapping[str, Task | None]:
        """These tasks as last committed, tombstones included; missing ones are left out.

        None stands for a record that this version cannot read.
        """

    async def forget_hint(self, hint: Hint) -> None:
        """Delete this hint, soon. Only its task's settler, or who saw it obsolete, may ask.

        It is kept for `flush`.
        """

    async def forget_open(self, task: Task) -> None:
        """Delete the rows that list this finished or deleted task as what it is no more, soon.

        They stay, or are soon put again, if the task is run again meanwhile.
        """

    async def flush(self, *, age_s: float = 0.0) -> None:
        """Send the deletions that were asked for at least so long ago.

        Those that fail are kept for the next call. Called about twice a second.
        """

    async def put_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Put the heartbeat in place of the processor's last one."""

    async def heartbeats(self) -> Sequence[Heartbeat]:
        """The rows of all processors, dead ones included."""

    async def leave(self, processor: str) -> None:
        """Delete the processor's heartbeat."""

    async def put_statistics(self, rows: Sequence[StatisticsRow]) -> None:
        """Put these rows, each in place of the one with the same step, start and part."""

    async def sweep_overdue(self, *, now_ms: int) -> int:
        """Fast sweep: repair what the rows of unfinished tasks overdue by a minute tell.

        Returns how many rows were put again or deleted.
        """

    async def sweep_some(self, most: int, *, now_ms: int) -> int:
        """Slow sweep: look at about so many rows more, where the last call of anybody ended. Repair
        what leads to tasks, delete finished tasks after their days, and tombstones after theirs.

        Returns how many rows and records were put or deleted.
        """

    def pressure(self) -> Pressure:
        """How the store bears what this process asks of it."""

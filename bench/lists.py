"""What a list costs: requests to the store, and how many an API process answers."""

from collections.abc import Iterator, Sequence
from typing import Any

from bench import api, machine, seed
from bench.drive import CLOCK, Options
from bench.report import Row
from chalicelib.task import Task

HOUR_MS = 3_600_000
APART, APART_MS = 4_000, 20_000
HOURS = 720
FINISHED = 100_000
FULL_FINISHED = 1_000_000
FAILED = 10


def measure(options: Options) -> list[Row]:
    """On stores of their own: tasks 20 s apart, one an hour, and many finished ones."""
    now_ms = CLOCK.now_ms()
    maker = seed.Maker(now_ms)
    apart = (maker.finished(now_ms - n * APART_MS) for n in range(APART))
    hourly = (maker.finished(now_ms - n * HOUR_MS) for n in range(HOURS))
    size = FULL_FINISHED if options.full else FINISHED
    both = ["", "order=desc"]
    dense = _asked(options, apart, both)
    sparse = _asked(options, hourly, [*both, "limit=1000"])
    among = _asked(options, _history(maker, now_ms, size), ["state=failed", "type=Foo"])
    return [
        _requests("list", f"GET /task?limit=50 of {APART:,} tasks 20 s apart", dense, both, 6),
        _requests("list, hourly", "the same, of one task an hour", sparse, both, 8),
        _requests("list, 1000", f"limit=1000 of these {HOURS}", sparse, ["limit=1000"], 40),
        _requests("list, failed", f"{FAILED} failed of {size:,}", among, ["state=failed"], 10),
        _requests("list, rare", f"{FAILED} of a type in {size:,}", among, ["type=Foo"], None),
        *_times(dense[""]),
    ]


def _history(maker: seed.Maker, now_ms: int, size: int) -> Iterator[Task]:
    """Of a day; some failed, and some are of a rare type."""
    step_ms, each = 24 * HOUR_MS // size, size // FAILED
    for number in range(size):
        at_ms = now_ms - number * step_ms
        if number % each == 0:
            yield maker.failed(at_ms)
        else:
            yield maker.finished(at_ms, "Foo" if number % each == 1 else "Baz")


def _asked(options: Options, tasks: Iterator[Task], queries: Sequence[str]) -> dict[str, Any]:
    """What an API process measured, by query."""
    with machine.turn(options.lock), machine.engine() as engine:
        seed.put(engine.port, engine.settings, tasks)
        found: dict[str, Any] = api.in_process(
            ["lists", *(f"?{one}" for one in queries)], engine.port
        )
        return found


def _requests(
    name: str, what: str, found: dict[str, Any], queries: Sequence[str], goal: int | None
) -> Row:
    most = max(found[query]["requests"] for query in queries)
    return Row(
        name=f"requests, {name}",
        what=f"store requests of {what}" + (", the worse order" if len(queries) > 1 else ""),
        figure=most,
        unit="",
        goal="-" if goal is None else f"<= {goal}",
        met=None if goal is None else most <= goal,
        note="As `Server-Timing` tells.",
        details=found,
    )


def _times(found: dict[str, Any]) -> list[Row]:
    note = (
        f"CPU of the API process: {found['cpu_ms']:.2f} ms. `app(event)` is called as Lambda does"
    )
    return [
        Row(
            name="list, alone",
            what="the middle one of lists of 50, one after the other",
            figure=found["p50_ms"],
            unit="ms",
            goal="<= 5",
            met=found["p50_ms"] <= 5,
            note=f"{note}.",
        ),
        Row(
            name="lists a second",
            what="lists of 50 that one API process answers",
            figure=found["a_second"],
            unit="/s",
            goal=">= 300",
            met=found["a_second"] >= 300,
            note=f"{note}, by four threads.",
        ),
    ]

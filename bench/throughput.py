"""A burst: how fast, how close to the engine's limit, at what CPU, and with how many requests."""

from collections.abc import Sequence
from typing import Any

from bench import drive, lean, machine, peers, seed
from bench.drive import CLOCK, Options, Outcome
from bench.report import Row, middle

SETTINGS_TRIED = ((1, 32), (2, 50))
"""Processes of the leanest client, and connections of each."""
AIM_US = 450.0
PREDICTED_WITHIN = 1.2
SMALL = 4
"""The burst that predicts is so many times smaller than the one that is predicted."""


def measure(options: Options) -> list[Row]:
    """All rows about bursts. What is compared takes turns."""
    by_processes: dict[int, list[Outcome]] = {1: [], 2: []}
    ceilings: dict[str, list[float]] = {"claims and completions": [], "with clean-up": []}
    rivals: dict[str, list[peers.PeerOutcome]] = {name: [] for name in peers.NAMES}
    for _ in range(options.rounds):
        for processes, outcomes in by_processes.items():
            outcomes.append(drive.burst(options, processes, options.tasks))
            ceilings["claims and completions"].append(_ceiling(options, cleaning=False))
        ceilings["with clean-up"].append(_ceiling(options, cleaning=True))
        if options.peers:
            for name, outcomes_ in rivals.items():
                outcomes_.append(peers.run(options, name, options.tasks, 0.0))
    small = [drive.burst(options, 1, options.tasks // SMALL) for _ in range(options.rounds)]
    four = drive.burst(options, 4, options.tasks)
    counted = drive.burst(options, 1, options.tasks, counted=True)
    best = max(by_processes, key=lambda n: middle([o.rate for o in by_processes[n]]))
    return [
        _requests(counted),
        _cpu(by_processes[1], rivals["dramatiq"]),
        *_against_ceiling(best, by_processes[best], ceilings),
        *_against_peers(best, by_processes, rivals),
        _same_instant(by_processes[1], small),
        _lost({**by_processes, 4: [four]}),
    ]


def _ceiling(options: Options, *, cleaning: bool) -> float:
    """Tasks a second of the leanest client, the best of its settings."""
    return max(
        _lean(options, processes, connections, cleaning)
        for processes, connections in SETTINGS_TRIED
    )


def _lean(options: Options, processes: int, connections: int, cleaning: bool) -> float:
    with machine.turn(options.lock), machine.engine() as engine:
        now_ms = CLOCK.now_ms()
        maker = seed.Maker(now_ms)
        tasks = [maker.task(now_ms + 1000) for _ in range(options.tasks)]
        seed.put(engine.port, engine.settings, tasks)
        chains = seed.runs(engine.settings, maker, tasks)
        if cleaning:
            chains = seed.with_cleaning(engine.settings, tasks, chains)
        sent = lean.send_by(processes, engine.port, chains, connections=connections)
        return len(tasks) / sent.seconds


def _requests(counted: Outcome) -> Row:
    return Row(
        name="requests, burst",
        what="store requests to run a task, one worker, counted at the store's edge",
        figure=counted.requests_a_task,
        unit="a task",
        goal="<= 2.2",
        met=counted.requests_a_task <= 2.2,
        note="Claim, complete, clean-up, and all polls and heartbeats from 3 s before the due time."
        " The counting proxy slows the burst, so the share of polls is an upper bound.",
        details=counted.summary(),
    )


def _cpu(ours: Sequence[Outcome], theirs: Sequence[peers.PeerOutcome]) -> Row:
    figure = middle([o.worker_us for o in ours])
    other = middle([o.worker_us for o in theirs]) if theirs else AIM_US
    return Row(
        name="worker CPU a task",
        what="CPU of the worker's process tree a task of a burst, one process",
        figure=figure,
        unit="us",
        goal="< dramatiq" if theirs else "aim 450",
        met=figure < other if theirs else None,
        yardstick="dramatiq" if theirs else "aim",
        yardstick_figure=other,
        note="From 3 s before the due time to the last deletion; the store's CPU is not in it.",
        details={
            "ours": [o.worker_us for o in ours],
            "engine_us": [o.engine_us for o in ours],
            "dramatiq": [o.worker_us for o in theirs],
        },
    )


def _against_ceiling(
    best: int, ours: Sequence[Outcome], ceilings: dict[str, list[float]]
) -> list[Row]:
    rate = middle([o.rate for o in ours])
    rows = []
    for name, rates in ceilings.items():
        ceiling = middle(rates)
        is_judged = name == "claims and completions"
        rows.append(
            Row(
                name="ceiling" if is_judged else "ceiling, cleaning",
                what=f"tasks a second of a burst against the leanest client: {name}",
                figure=rate,
                unit="/s",
                goal=">= 0.85" if is_judged else "-",
                met=rate / ceiling >= 0.85 if is_judged else None,
                yardstick="lean client",
                yardstick_figure=ceiling,
                note=f"{best} worker processes (the better of 1 and 2); the lean client sends"
                " prebuilt bytes from epoll, the better of 1 and 2 processes. Medians of rounds"
                " in turn.",
                details={"ours": [o.rate for o in ours], "lean": rates, "processes": best},
            )
        )
    return rows


def _against_peers(
    best: int,
    ours: dict[int, list[Outcome]],
    rivals: dict[str, list[peers.PeerOutcome]],
) -> list[Row]:
    rate = middle([o.rate for o in ours[best]])
    details: dict[str, Any] = {
        "ours": {str(n): [o.rate for o in outcomes] for n, outcomes in ours.items()}
    }
    if not any(rivals.values()):
        return [_without_peers(best, rate, details)]
    return [
        Row(
            name=f"burst, {name}",
            what=f"tasks a second of a burst, in-memory engine, against {name} on Redis",
            figure=rate,
            unit="/s",
            goal="ahead",
            met=rate > middle([o.rate for o in outcomes]),
            yardstick=name,
            yardstick_figure=middle([o.rate for o in outcomes]),
            note=f"Ours with {best} processes, theirs with 2. Redis appends to a file.",
            details=details | {name: [o.summary() for o in outcomes]},
        )
        for name, outcomes in rivals.items()
        if outcomes
    ]


def _without_peers(best: int, rate: float, details: dict[str, Any]) -> Row:
    return Row(
        name="burst",
        what="tasks a second of a burst, in-memory engine",
        figure=rate,
        unit="/s",
        goal="ahead of peers",
        met=None,
        note=f"{best} processes. The peers were not measured: PEERS=1 does.",
        details=details,
    )


def _same_instant(ours: Sequence[Outcome], small: Sequence[Outcome]) -> Row:
    last_s = middle([o.last_start_ms / 1000 for o in ours])
    count = len(ours[0].tasks)
    predicted_s = count / middle([o.rate for o in small])
    attempts = max(task.attempt for o in ours for task in o.tasks)
    lost = sum(o.counts["lease_lost"] for o in ours)
    return Row(
        name="same millisecond",
        what=f"when the last of {count} tasks due at one millisecond starts, one process",
        figure=last_s,
        unit="s",
        goal=f"<= {PREDICTED_WITHIN} x, attempts 1",
        met=last_s <= PREDICTED_WITHIN * predicted_s and attempts == 1 and lost == 0,
        yardstick="predicted",
        yardstick_figure=predicted_s,
        note=f"Predicted by the rate of bursts {SMALL} times smaller. Most attempts of a task:"
        f" {attempts}; leases lost: {lost}.",
        details={
            "last_start_ms": [o.last_start_ms for o in ours],
            "small_rates": [o.rate for o in small],
            "attempts_max": attempts,
            "lease_lost": lost,
            "started_ms_by_tenth": _tenths(ours[-1]),
        },
    )


def _tenths(outcome: Outcome) -> list[int]:
    """When each tenth of the tasks had started, in ms after the due time."""
    late = sorted(outcome.lateness_ms)
    return [late[max(0, len(late) * n // 10 - 1)] for n in range(1, 11)]


def _lost(by_processes: dict[int, list[Outcome]]) -> Row:
    shares = {n: max(o.lost_claims for o in outcomes) for n, outcomes in by_processes.items()}
    return Row(
        name="claims lost",
        what="share of claims that another worker had won, bursts with 1, 2 and 4 processes",
        figure=100 * max(shares.values()),
        unit="%",
        goal="< 1",
        met=max(shares.values()) < 0.01,
        note="From the processors' own counters, the worst of all rounds: "
        + ", ".join(f"{n}: {100 * share:.2f}" for n, share in shares.items())
        + ".",
        details={str(n): [dict(o.counts) for o in outs] for n, outs in by_processes.items()},
    )

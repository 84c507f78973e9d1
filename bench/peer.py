"""`peer.py NAME MODE COUNT SECONDS PORT FOLDER`: one peer over so many trivial tasks, evenly over
some seconds (0: at one instant); prints one line of JSON. Run it with the peers' own python.

MODE is `ahead` (created before they are due, as `drive.run` does) or `now` (each created for the
moment at which it is created, at odd moments, as `api_process.now` does). Both peers are set up as
their documentation says for throughput: two processes, late acknowledgement or its like,
prefetching. A task appends one line to a file. The windows are those of `drive.run`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
TICKS = os.sysconf("SC_CLK_TCK")
BEFORE_S = 3.0
AFTER_S = 0.4
STARTED_S = 4.0
ENQUEUED_A_SECOND = 350
PATIENCE_S = 120.0
COMMANDS = {
    "celery": ["celery", "-A", "celery_tasks", "worker", "-c", "2", "-l", "ERROR"],
    "dramatiq": ["dramatiq", "dramatiq_tasks", "-p", "2", "-t", "8"],
}


def enqueue_ahead(name: str, due_s: Sequence[float]) -> None:
    if name == "celery":
        from celery_tasks import baz as of_celery

        for at_s in due_s:
            of_celery.apply_async((at_s,), eta=datetime.fromtimestamp(at_s, UTC))
    else:
        from dramatiq_tasks import baz as of_dramatiq

        for at_s in due_s:
            delay_ms = max(0, round((at_s - time.time()) * 1000))
            of_dramatiq.send_with_options(args=(at_s,), delay=delay_ms)


def enqueue_now(name: str, count: int, over_s: float) -> None:
    """Each for now, at odd moments: no two waits are alike."""
    if name == "celery":
        from celery_tasks import baz as of_celery

        create = of_celery.delay
    else:
        from dramatiq_tasks import baz as of_dramatiq

        create = of_dramatiq.send
    rng = Random()
    next_s = time.time()
    for _ in range(count):
        next_s += rng.uniform(0, 2) * over_s / count
        time.sleep(max(0.0, next_s - time.time()))
        create(time.time())


def cpu_s(session: int) -> float:
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            total += sum(map(int, fields[11:15]))
    return total / TICKS


def redis_cpu_s(port: int) -> float:
    import redis

    used = redis.Redis(port=port).info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def wait_ahead(name: str, count: int, over_s: float) -> float:
    """Enqueue; return shortly before the first task is due, with the time at which it is."""
    first_s = time.time() + BEFORE_S + 2 + count / ENQUEUED_A_SECOND
    enqueue_ahead(name, [first_s + n * over_s / count for n in range(count)])
    left_s = first_s - BEFORE_S - time.time()
    if left_s < 0:
        raise SystemExit(f"enqueueing took {-left_s:.1f} s too long")
    time.sleep(left_s)
    return first_s


def measure(
    name: str, mode: str, count: int, over_s: float, port: int, log: Path, session: int
) -> object:
    """Enqueue while the worker runs, wait until all have run, and say how that was."""
    first_s = wait_ahead(name, count, over_s) if mode == "ahead" else time.time()
    worker_s, redis_s = cpu_s(session), redis_cpu_s(port)
    if mode == "now":
        enqueue_now(name, count, over_s)
    wait_lines(log, count, first_s + over_s + PATIENCE_S)
    time.sleep(AFTER_S)
    worker_s, redis_s = cpu_s(session) - worker_s, redis_cpu_s(port) - redis_s
    runs = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    return {
        "tasks": len(runs),
        "rate": len(runs) / (max(ended for _, ended in runs) - first_s),
        "lateness_ms": [(ended - due) * 1000 for due, ended in runs],
        "worker_us": worker_s / count * 1e6,
        "redis_us": redis_s / count * 1e6,
    }


def wait_lines(log: Path, count: int, until_s: float) -> None:
    while not log.exists() or log.read_bytes().count(b"\n") < count:
        if time.time() > until_s:
            raise SystemExit("not all tasks ran")
        time.sleep(0.2)


def main() -> None:
    name, mode, count, over_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    port, log = int(sys.argv[5]), Path(sys.argv[6]) / "runs"
    os.environ |= {"PEER_REDIS": f"redis://127.0.0.1:{port}", "PEER_LOG": str(log)}
    sys.path.insert(0, str(HERE / "peer_tasks"))
    program, *arguments = COMMANDS[name]
    worker = subprocess.Popen(
        [str(BIN / program), *arguments],
        cwd=HERE / "peer_tasks",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        time.sleep(STARTED_S)
        found = measure(name, mode, count, over_s, port, log, worker.pid)
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

"""Celery's trivial task."""

import os
import time

from celery import Celery

app = Celery("bench", broker=os.environ["PEER_REDIS"] + "/0")
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 64
app.conf.task_acks_late = True
LOG = os.open(os.environ["PEER_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.task
def baz(due_s: float) -> None:
    os.write(LOG, b"%f %f\n" % (due_s, time.time()))

"""Dramatiq's trivial task."""

import os
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["PEER_REDIS"] + "/1"))
LOG = os.open(os.environ["PEER_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@dramatiq.actor
def baz(due_s: float) -> None:
    os.write(LOG, b"%f %f\n" % (due_s, time.time()))

"""A peer that does what lines on its input say and answers each with one line.

Arguments: redlock-py or redlock-fifo, and the ports of the servers.
"""

import logging
import sys
import time

import redis
from redlock import Redlock
from redlock_fifo.fifo_redlock import FIFORedlock

# It reports each try that fails.
logging.disable(logging.CRITICAL)
kind, ports = sys.argv[1], sys.argv[2:]
nodes = [{"host": "127.0.0.1", "port": int(port)} for port in ports]
if kind == "redlock-py":
    redlock = Redlock(nodes, retry_count=1, retry_delay=0.01)
else:
    # A short ladder: the way from its top to the lock takes one step a rung.
    redlock = FIFORedlock(nodes, retry_delay=0.01, fifo_retry_count=2, fifo_retry_delay=0.01, fifo_queue_length=2)


def contend(name, seconds, store):
    """Locks again and again; how often, and how often somebody else was inside."""
    store = redis.StrictRedis(host="127.0.0.1", port=int(store))
    until, served, met = time.monotonic() + float(seconds), 0, 0
    while time.monotonic() < until:
        mine = redlock.lock(name, 10000)
        if mine:
            met += store.incr("inside") != 1
            time.sleep(0.002)
            store.decr("inside")
            redlock.unlock(mine)
            served += 1
        time.sleep(0.002)
    return f"{served} {met}"


held = None
print("ready", flush=True)
for line in sys.stdin:
    order, *words = line.split()
    if order == "lock":
        held = redlock.lock(words[0], int(words[1]))
        answer = "yes" if held else "no"
    elif order == "unlock":
        answer = "done"
        redlock.unlock(held)
    else:
        answer = contend(*words)
    print(answer, flush=True)

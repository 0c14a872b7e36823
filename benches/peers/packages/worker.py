"""A worker for the Python peers: takes the orders described in src/worker.rs.

worker.py redlock-py|redlock-fifo POLL_MS URL...
"""

import logging
import sys
import threading
import time
from urllib.parse import urlparse

from redis.backoff import NoBackoff
from redis.retry import Retry

logging.disable(logging.CRITICAL)

TTL_MS = 10_000


def connect(package, poll, urls):
    """Returns `lock(resource)`, falsy where it gave up, and `unlock(lock)`."""
    # The driver would try a call again three times by itself.
    common = {"socket_timeout": 0.5, "retry": Retry(NoBackoff(), 0)}
    nodes = [
        {"host": urlparse(url).hostname, "port": urlparse(url).port, **common} for url in urls
    ]
    if package == "redlock-fifo":
        from redlock_fifo.fifo_redlock import FIFORedlock

        client = FIFORedlock(
            nodes, retry_count=1, retry_delay=poll, fifo_retry_count=10**9, fifo_retry_delay=poll
        )
    else:
        from redlock import Redlock

        client = Redlock(nodes, retry_count=10, retry_delay=poll)
    return (lambda resource: client.lock(resource, TTL_MS)), client.unlock


def turns(task, order, lock, unlock, say):
    resource, fresh, hold, end, cycles = order
    for turn in range(cycles):
        asked = time.time_ns()
        if asked >= end:
            return
        say(("p", task), str(asked))
        name = f"{resource}:{turn}" if fresh else resource
        try:
            held = None
            while not held:
                if time.time_ns() >= end:
                    return
                held = lock(name)
            served = time.time_ns()
            if hold:
                time.sleep(hold)
            unlock(held)
            say(("c", task), f"{asked} {served} {time.time_ns()}")
        except Exception as error:
            say(("e", task), " ".join(str(error).split()) or type(error).__name__)
            time.sleep(0.001)


def run(words, lock, unlock):
    resource, fresh, tasks, hold_us, start, end, cycles = (
        words[1], words[2] == "1", int(words[3]), int(words[4]), *map(int, words[5:8])
    )
    time.sleep(max(0, (start - time.time_ns()) / 1e9))
    lines, pending, over = [], {}, []

    def say(what, text):
        kind, task = what
        if over:
            return
        if kind == "p":
            pending[task] = text
        else:
            pending.pop(task, None)
            lines.append(f"{kind} {task} {text}")

    order = (resource, fresh, hold_us / 1e6, end, cycles)
    threads = [
        threading.Thread(target=turns, args=(task, order, lock, unlock, say), daemon=True)
        for task in range(tasks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, (end - time.time_ns()) / 1e9))
    waits = [f"p {task} {asked}" for task, asked in list(pending.items()) if threads[task].is_alive()]
    over.append(True)
    print("\n".join([*lines, *waits, "done"]), flush=True)


def main():
    package, poll, urls = sys.argv[1], int(sys.argv[2]) / 1000, sys.argv[3:]
    try:
        lock, unlock = connect(package, poll, urls)
    except Exception as error:
        print("failed", error, flush=True)
        return
    print("ready", flush=True)
    for line in sys.stdin:
        run(line.split(), lock, unlock)


main()

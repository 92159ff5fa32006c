"""Work in a forked child of the test process, to be killed or measured."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import traceback
from collections.abc import Callable

from django.db import connection, connections

SECONDS = 120.0  # after which a child hangs


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child, which ends with 0, or with 1 after a traceback; its process id. Wait with `wait`.

    The parent gives up its connection first. Where a browser runs in the parent, Django keeps another connection for
    the thread outside its event loop, and the child finds that one: using it would leave the parent's open transaction
    behind when the child is killed, closing it would end the parent's. So the child forgets it.
    """
    connection.close()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    faulthandler.dump_traceback_later(SECONDS * 0.9)  # what a lock held by another thread of the parent would look like
    try:
        for inherited in connections.all(initialized_only=True):
            inherited.connection = None
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(pid: int, seconds: float = SECONDS) -> int:
    """The child's wait status. One that takes longer than `seconds` fails the test; none outlives the wait."""
    handle = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([handle], [], [], seconds)
        assert ended, f"The child hung for {seconds:.0f} s; the stacks of its threads are among the errors."
        return os.waitpid(pid, 0)[1]
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(handle)

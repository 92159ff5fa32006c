"""Child processes that never outlive their parent."""

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SUPERVISED = "READROOM_SUPERVISED"
Steps = Sequence[tuple[int, float]]  # signals, each with the seconds to wait for it
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process a signal when its parent ends, even by SIGKILL (prctl(2))."""
    _libc.prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)


def die_with_supervisor() -> None:
    """In a process of a process that a supervisor started: do not outlive the parent."""
    if os.environ.get(SUPERVISED):
        die_with_parent()


def adopt_orphans() -> None:
    """Become the parent of processes below us that lose theirs, so that we can end and reap them."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap(group: int) -> None:
    """Collect the ended processes of a group that we adopted."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass


def dying_with(parent: int, signal_number: int) -> Callable[[], None]:
    """A `preexec_fn` that ties the child to `parent`; the parent may have ended before the tie was made."""

    def tie() -> None:
        die_with_parent(signal_number)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def stop_group(process: subprocess.Popen[bytes], steps: Steps) -> None:
    """Stop the leader of a process group: each signal with the seconds to wait for it, then SIGKILL to the group."""
    for signal_number, seconds in steps:
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    kill_group(process.pid)
    process.wait()


def kill_group(group: int) -> None:
    """SIGKILL what is left of a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A free loopback port below the range from which the kernel takes ports for outgoing connections."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        if port_is_free(port):
            return port


def wait_until(condition: Callable[[], bool], seconds: float, step: float = 0.05) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(step)
    return True

"""Peers that stop in the middle: a relay that passes so many bytes of an answer and then nothing more."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class Relay:
    """Passes connections on to a port of this machine, and falls silent when `stop(bytes so far)` gives a number: only
    that many bytes of one direction are passed, and the connection stays open.

    `stalls` is "answers" (what the server says) or "requests" (what the client says).
    """

    def __init__(self, target: int, stop: Callable[[bytes], int | None], *, stalls: str = "answers") -> None:
        self.target, self.stop, self.stalls = target, stop, stalls
        self.connections = 0
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self._open += [client, server]
                self.connections += 1
                for source, target, way in ((client, server, "requests"), (server, client, "answers")):
                    threading.Thread(target=self._pass, args=[source, target, way == self.stalls], daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, stalls: bool) -> None:
        passed = b""
        with contextlib.suppress(OSError):
            while piece := source.recv(4096):
                limit = self.stop(passed + piece) if stalls else None
                if limit is not None:
                    target.sendall(piece[: max(limit - len(passed), 0)])
                    return  # and stays silent
                target.sendall(piece)
                passed += piece
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listening.close()
        for one in self._open:
            one.close()


def after(count: int) -> Callable[[bytes], int | None]:
    return lambda passed: count if len(passed) > count else None


def within(mark: bytes, occurrence: int) -> Callable[[bytes], int | None]:
    """20 bytes after the beginning of an occurrence of `mark`."""

    def stop(passed: bytes) -> int | None:
        at = -1
        for _ in range(occurrence):
            at = passed.find(mark, at + 1)
            if at < 0:
                return None
        return at + 20

    return stop

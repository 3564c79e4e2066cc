"""A connection between the main process and each other one, which breaks when one of them ends.

A collective operation of NCCL waits for minutes for a process that has ended, and a launcher waits half a minute before
it kills those that wait. Here the kernel reports the end of a process immediately, as the end of its connection.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.connection import wait as wait_for
from typing import Any

GRACE = 10.0
"""Seconds in which the main thread may end the process, before the whole process is ended."""

ARRIVAL = 20.0
"""Seconds in which the other processes, which are all there, connect with the main one."""

KILLED = "ended without a message: it was killed, ran out of memory, or its machine failed"
DONE = b"done"


class Watch:
    """The connections of one process.

    Args:
        connections: rank -> connection: of the main process all others, of these only rank 0.
        main: True in the main process.

    Attributes:
        ended: set when another process has ended before `close`.
        cause: the first cause, as a message; of the main process only.
    """

    def __init__(self, connections: Mapping[int, Connection], main: bool) -> None:
        self.connections, self.main = connections, main
        self.ended, self.closed, self.cause = threading.Event(), threading.Event(), ""
        for connection in connections.values():
            _probe(connection)
        os.register_at_fork(after_in_child=self._drop)  # workers that read data would keep the connections open
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def tell(self, text: str) -> None:
        """Send a message to the other side, if it still exists."""
        for connection in self.connections.values():
            try:
                connection.send_bytes(text.encode()[:10_000])
            except OSError:
                continue

    def close(self) -> None:
        """Stop watching, after all processes have agreed to."""
        self.closed.set()
        self.tell(DONE.decode())
        self._thread.join(GRACE)

    def _drop(self) -> None:
        for connection in self.connections.values():
            connection.close()

    def _run(self) -> None:
        ranks = {connection: rank for rank, connection in self.connections.items()}
        while ranks:
            readable = wait_for(list(ranks))
            for connection in [one for one in ranks if one in readable]:
                rank = ranks.pop(connection)
                try:
                    text = connection.recv_bytes().decode()
                except (EOFError, OSError):
                    text = KILLED
                if self.closed.is_set() or text == DONE.decode():
                    continue
                self._end(rank, text)
                return

    def _end(self, rank: int, text: str) -> None:
        """Record the first cause; end the process if the main thread does not, for example in a collective of NCCL."""
        self.cause = (
            f"rank {rank} {text if text == KILLED else f'failed: {text}'}\nAll processes of the training were ended. "
            "Fix this and rerun the command, which resumes from the last checkpoint"
        )
        self.ended.set()
        if self.main:
            self.tell("rank 0 has shown the cause")
        if self.closed.wait(GRACE):
            return
        if self.main:
            print(f"error: {self.cause}", file=sys.stderr, flush=True)
        os._exit(2)


def watching(rank: int, ranks: int, share: Callable[[Any], list[Any]]) -> Watch:
    """Connect the processes with the main one; ``share`` returns the plain values of all of them."""
    key = secrets.token_bytes(16) if rank == 0 else b""
    listener = Listener(("", 0), backlog=ranks, authkey=key) if rank == 0 else None
    port, key = share((listener.address[1], key) if listener else None)[0]
    if listener is None:
        connection = Client((os.environ.get("MASTER_ADDR", "localhost"), port), authkey=key)
        connection.send_bytes(str(rank).encode())
        return Watch({0: connection}, main=False)
    connections: dict[int, Connection] = {}
    timer = threading.Timer(ARRIVAL, _give_up, (connections, ranks))
    timer.daemon = True
    timer.start()
    while len(connections) < ranks - 1:
        connection = listener.accept()
        connections[int(connection.recv_bytes())] = connection
    timer.cancel()
    listener.close()
    return Watch(connections, main=True)


def _give_up(connections: Mapping[int, Connection], ranks: int) -> None:
    """End the main process, which waits for a process that ended before it could connect."""
    missing = ", ".join(str(rank) for rank in range(1, ranks) if rank not in connections)
    print(
        f"error: rank {missing} {KILLED}\nIt had joined, but did not connect with rank 0 in {ARRIVAL:g} s. "
        "Fix this and rerun the command, which resumes from the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _probe(connection: Connection) -> None:
    """Let the kernel probe a connection, so that the failure of a whole machine ends it within 20 s."""
    options = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    with socket.socket(fileno=os.dup(connection.fileno())) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):  # Linux
                one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

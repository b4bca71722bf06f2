"""What Linux knows of this process' connections.

A server that leaves no trace of which connection a request came over can still be kept from slow
clients: the system counts what went over each.

Source: tcp(7), TCP_INFO; linux/tcp.h, struct tcp_info.
"""

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_FAMILIES = (socket.AF_INET, socket.AF_INET6)


# Of struct tcp_info: tcpi_bytes_acked and tcpi_bytes_received.
_COUNTERS = struct.Struct("=120xQQ")
# What a body must come with on average.
_SLOWEST_BYTES_PER_SECOND = 1024


def connections(port: int) -> Iterator[tuple[Any, socket.socket]]:
    """The connections that this process has accepted on a port, each with its client's address.

    The sockets are duplicates, closed when the next one is asked for: what is done to one concerns
    the connection, even if its owner closes it meanwhile.
    """
    for entry in Path("/proc/self/fd").iterdir():
        found = _duplicate(int(entry.name))
        if found is None:
            continue
        with found:
            try:
                is_ours = found.family in _FAMILIES and found.getsockname()[1] == port
                client = found.getpeername() if is_ours else None
            except OSError:  # it listens, or is closed already
                continue
            if client is not None:
                yield client, found


def _duplicate(descriptor: int) -> socket.socket | None:
    """A socket by its descriptor; None if it is something else, or closed meanwhile."""
    try:
        duplicate = os.dup(descriptor)
    except OSError:
        return None
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return None


class StallWatch:
    """Ends connections over which nothing is answered for too long.

    Their clients send too slowly, do not read, or have nothing to say.

    One thread may use it.

    Args:
        port: whose connections.
        patience_seconds: longer than any request may take that has been read in full. For each
            KiB that has come since the last answer there is one second more.
    """

    def __init__(self, port: int, patience_seconds: float) -> None:
        self._port = port
        self._patience_seconds = patience_seconds
        # By the client's address: what was acknowledged and received, and since when.
        self._seen: dict[Any, tuple[int, int, float]] = {}

    def look(self, now_seconds: float) -> int:
        """Looks at all of them; to be called now and then. Answers how many were ended."""
        seen: dict[Any, tuple[int, int, float]] = {}
        ended = 0
        for client, connection in connections(self._port):
            acked, received = _counters(connection)
            before = self._seen.get(client)
            # Where the system counts nothing, nobody is accused.
            if before is None or before[0] != acked or received == 0:
                seen[client] = acked, received, now_seconds
                continue
            _, received_before, since_seconds = seen[client] = before
            allowed_seconds = (received - received_before) / _SLOWEST_BYTES_PER_SECOND
            if now_seconds - since_seconds > self._patience_seconds + allowed_seconds:
                _shut_down(connection, socket.SHUT_RDWR)
                ended += 1
        self._seen = seen
        return ended


def stop_reading(port: int) -> None:
    """Ends the client's side of all connections that have nothing left to send.

    Whoever reads from one finds the stream's end behind what had come.
    """
    for _, connection in connections(port):
        if fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)) == bytes(4):
            _shut_down(connection, socket.SHUT_RD)


def _shut_down(connection: socket.socket, how: int) -> None:
    with suppress(OSError):  # the client has left meanwhile
        connection.shutdown(how)


def _counters(connection: socket.socket) -> tuple[int, int]:
    """The bytes that the client has acknowledged, and those that have come from it."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTERS.size)
    acked, received = _COUNTERS.unpack(info)
    return acked, received

"""Creates the sockets that the server listens on, for one process or for several."""

import itertools
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from gpux.errors import ConfigurationError

Address = tuple[socket.AddressFamily, str, int]

# Connections that wait for accept(), at most; Linux caps it at net.core.somaxconn.
BACKLOG = 1024


def listen(host: str | None, port: int, workers: int) -> list[list[socket.socket]]:
    """Listens on every address of a host, once for each worker process.

    Linux distributes the connections to an address among its sockets (SO_REUSEPORT). Which socket
    a connection waits at is settled when it is established: it is lost only if that socket is
    closed in every process.

    Args:
        host: a name or an address; None for 127.0.0.1 and, if the machine has it, ::1.
        port: 0 for a free one, the same for all sockets.
        workers: how many processes accept connections.

    Returns:
        The sockets of each worker, one for each address. The caller owns them.

    Raises:
        ConfigurationError: names the address and the reason, such as a port that is in use.
    """
    reserved = bind(host, port)
    listeners = [reserved]
    with ExitStack() as opened:
        for one in reserved:
            opened.enter_context(one)
        if workers > 1:
            # Sockets with SO_REUSEPORT would join those of another server of the same user; the
            # reserved ones, which lack it, cannot be bound beside them.
            addresses: list[Address] = [(one.family, *one.getsockname()[:2]) for one in reserved]
            listeners = [
                [opened.enter_context(bind_reuse_port(address)) for address in addresses]
                for _ in range(workers)
            ]
            for one in reserved:
                one.close()
        for one in itertools.chain(*listeners):
            try:
                one.listen(BACKLOG)
            except OSError as error:  # another server has bound it at the same time
                raise _cannot_listen(one.getsockname(), error) from error
        opened.pop_all()
    return listeners


def bind(host: str | None, port: int) -> list[socket.socket]:
    """Binds a socket to every address of a host; they do not listen yet.

    Args:
        host: a name or an address; None for 127.0.0.1 and, if the machine has it, ::1.
        port: 0 for a free one, the same for all sockets.

    Raises:
        ConfigurationError: names the address and the reason.
    """
    if host is not None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise ConfigurationError(f"--host {host}: {error.strerror or error}") from error
        wanted = list(dict.fromkeys((family, address[:2]) for family, _, _, _, address in found))
    else:
        wanted = [(socket.AF_INET, ("127.0.0.1", port))]
        if _has_ipv6_loopback():
            wanted.append((socket.AF_INET6, ("::1", port)))
    sockets: list[socket.socket] = []
    for family, address in wanted:
        bound = _socket(family)
        sockets.append(bound)
        try:
            bound.bind((address[0], port or sockets[0].getsockname()[1]))
        except OSError as error:
            for other in sockets:
                other.close()
            raise _cannot_listen((address[0], port), error) from error
    return sockets


def bind_reuse_port(address: Address) -> socket.socket:
    """Binds a socket to an address that it shares with other sockets; it does not listen yet.

    Raises:
        ConfigurationError: names the address and the reason.
    """
    family, *host_and_port = address
    bound = _socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(tuple(host_and_port))
    except OSError as error:
        bound.close()
        raise _cannot_listen(host_and_port, error) from error
    return bound


def url(host: str | None, sockets: Sequence[socket.socket]) -> str:
    """The URL of the root, for clients on this machine.

    Args:
        host: as passed to bind() or listen().
        sockets: as returned by bind(), or those of a worker.
    """
    shown = "localhost" if host is None else str(sockets[0].getsockname()[0])
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{sockets[0].getsockname()[1]}"


def _socket(family: socket.AddressFamily) -> socket.socket:
    created = socket.socket(family, socket.SOCK_STREAM)
    # A restarted server need not wait for the connections of the one before (TIME_WAIT).
    created.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by connections
    if family == socket.AF_INET6:
        # An IPv6 socket would take the port of 0.0.0.0, too, which has a socket of its own.
        created.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return created


def _cannot_listen(host_and_port: Sequence[object], error: OSError) -> ConfigurationError:
    host, port, *_ = host_and_port
    return ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror}")


def _has_ipv6_loopback() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True

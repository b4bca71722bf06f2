"""Creates the sockets that the server listens on."""

import socket
from collections.abc import Sequence

from gpux.errors import ConfigurationError

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
Address = tuple[socket.AddressFamily, str, int]


def bind(host: str | None, port: int) -> list[socket.socket]:
    """Binds sockets to an address; they do not listen yet.

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
        bound = socket.socket(family, socket.SOCK_STREAM)
        sockets.append(bound)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            bound.bind((address[0], port or sockets[0].getsockname()[1]))
        except OSError as error:
            for other in sockets:
                other.close()
            raise ConfigurationError(
                f"cannot listen on {address[0]} port {port}: {error.strerror}"
            ) from error
    return sockets


def url(host: str | None, sockets: Sequence[socket.socket]) -> str:
    """The URL of the root, for clients on this machine.

    Args:
        host: as passed to bind().
        sockets: as returned by bind().
    """
    shown = "localhost" if host is None else str(sockets[0].getsockname()[0])
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{sockets[0].getsockname()[1]}"


def _has_ipv6_loopback() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def bind_reuse_port(address: Address) -> socket.socket:
    """Binds a socket to an address that other sockets of this server share; it does not listen yet.

    Linux distributes new connections among them (SO_REUSEPORT).
    """
    family, host, port = address
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by connections
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    bound.bind((host, port))
    return bound

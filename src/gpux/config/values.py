"""Config value types with a text syntax of their own: sizes and origins."""

import ipaddress
import re


class Size(int):
    """A number of bytes, written as an integer or with a unit."""


class OriginText(str):
    """A web origin as browsers serialize it, or `*`."""


_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


def decode(kind: type, value: object) -> Size | OriginText:
    """Implements msgspec's dec_hook: a ValueError becomes a msgspec.ValidationError."""
    return _read_size(value) if kind is Size else _read_origin(value)


def _read_size(value: object) -> Size:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if value.bit_length() < 64 else ""
    match = re.fullmatch(r"([0-9]{1,15})\s*([A-Za-z]*)", value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in _UNITS or int(match[1]) == 0:
        raise ValueError
    return Size(int(match[1]) * _UNITS[match[2].lower()])


_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:\[(?P<v6>[0-9a-f:]+)\]|(?P<host>[a-z0-9._-]+))"
    r"(?::(?P<port>0|[1-9][0-9]{0,4}))?"
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def _read_origin(value: object) -> OriginText:
    """Parses a serialized origin. Source: HTML standard, 7.1.1; URL standard, 3.5 (hosts)."""
    if value == "*":
        return OriginText("*")
    match = _ORIGIN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError
    if match["v6"] and str(ipaddress.IPv6Address(match["v6"])) != match["v6"]:
        raise ValueError
    if match["host"] and match["host"].rpartition(".")[2].isdigit():
        ipaddress.IPv4Address(match["host"])  # only the canonical form, else a ValueError
    port = match["port"]
    if port and (int(port) > 65535 or port == _DEFAULT_PORTS.get(match["scheme"])):
        raise ValueError
    return OriginText(match[0])

"""What a URL says before any driver looks at it: what is wrong with it, and whether its host is this machine."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^\[\]:]*)(?::(?P<port>[^:]*))?")


def host_fault(url: str) -> str:
    """Return what is wrong with the hosts and ports of *url*, without a word of its password; "" when nothing is.

    Several hosts are separated by commas. Client libraries tell a wrong port late and in words of their own, or take the
    host and the port for a name.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "its host has brackets that do not match; an IPv6 address is written [::1]"
    if "@" not in parts.netloc and "@" in url:
        return "what looks like its host is part of a password; write / as %2F, ? as %3F and # as %23 in a password"
    for place in parts.netloc.rpartition("@")[2].split(","):
        found = HOST.fullmatch(place)
        if found is None:
            return f"{place!r} is not host:port; an IPv6 address is written [::1]:6379"
        port = found["port"]
        if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65_536):
            return f"{port!r} is not a port; a port is a number from 1 to 65535, as in host:6379"
    return ""


def is_loopback(host: str) -> bool:
    """Tell whether *host* is an address, or the name, of this machine that only programs of this machine can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

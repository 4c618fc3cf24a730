"""Whose cookie it is, read off a request."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from msgspec import Struct


class Site(Struct, frozen=True):
    """Whose cookie it is: its name, the host that it is bound to, and whether it may travel by https alone."""

    name: str
    host: str
    secure: bool


class Place(Struct, frozen=True):
    """Where a `CookieChat` keeps its cookies, as it was told; None: as the request says."""

    name: str | None
    path: str
    secure: bool | None
    same_site: str
    host: str | None

    def site_of(self, host: str, *, https: bool) -> Site:
        """Return whose cookie it is that a request to *host* brings."""
        host = _without_port(host)
        secure = (https or _is_public(host)) if self.secure is None else self.secure
        name = self.name or ("__Host-chat" if secure and self.path == "/" else "chat")
        return Site(name, host if self.host is None else self.host, secure)


def cookies_named(name: str, headers: Sequence[str]) -> list[str]:
    """Return the values of the cookies *name* in the headers Cookie of a request: there may be several, of other paths or domains."""
    pairs = (pair.partition("=") for header in headers for pair in header.split(";"))
    return [value.strip().strip('"') for found, _, value in pairs if found.strip() == name and value.strip()]


def _without_port(host: str) -> str:
    host = host.strip().lower()
    return host.rpartition(":")[0] if re.search(r"(^|[^:]|\]):\d+$", host) else host


def _is_public(host: str) -> bool:
    """Tell whether *host* may be a name, or address, of the public network."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        return "." in host.rstrip(".") and not host.endswith((".localhost", ".local", ".test", ".internal"))

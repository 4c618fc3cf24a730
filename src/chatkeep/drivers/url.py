"""What URLs of all stores have in common: what is wrong with one before any driver looks at it, its options, and whether its host is
this machine."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import parse_qsl, urlsplit

from ..errors import Misconfigured

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
    behind = [parts.path, parts.fragment, *(one for one in parts.query.split("&") if "=" not in one)]
    if any("@" in part for part in behind) or ("@" not in parts.netloc and "@" in parts.query):
        return "what looks like its host is part of a password; write / as %2F, ? as %3F, # as %23 and @ as %40 in a password"
    _, at, places = parts.netloc.rpartition("@")
    for place in places.split(","):
        found = HOST.fullmatch(place)
        shown = repr(place) if at else "what stands behind //"
        if found is None:
            return f"{shown} is not host:port; an IPv6 address is written [::1]:6379"
        port = found["port"]
        if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65_536):
            # Without an @ it may be a password, behind which the host was lost.
            shown = repr(port) if at else "what stands behind the :"
            return (
                f"{shown} is not a port; a port is a number from 1 to 65535, as in host:6379 or user:password@host:6379"
            )
    return ""


def is_loopback(host: str) -> bool:
    """Tell whether *host* is an address, or the name, of this machine that only programs of this machine can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class UrlOptions:
    """The options behind the `?` of a store's URL: *query*, of which each is one of the *known* ones. *store* is the URL without what is
    secret in it, *example* one that is right. What cannot be meant is refused with `wrong`."""

    def __init__(self, store: str, query: str, known: set[str], *, example: str) -> None:
        self._given = dict(parse_qsl(query, keep_blank_values=True))
        self._store = store
        self._known = sorted(known)
        self._example = example
        if unknown := sorted(self._given.keys() - known):
            raise self.wrong(f"there is no option {', '.join(unknown)}.")

    def wrong(self, said: str) -> Misconfigured:
        """Return the refusal of the URL, of which *said* tells what is wrong."""
        options = "=, ".join(self._known)
        return Misconfigured(f"{self._store}: {said} A URL looks like {self._example}; it may have ?{options}=.")

    def __contains__(self, option: str) -> bool:
        return option in self._given

    def text(self, option: str) -> str:
        """Return an option as it was given; "" where it was not."""
        return self._given.get(option, "")

    def name(self, option: str) -> str:
        """Return an option that names the store among others, `chatkeep` by default. Raises `Misconfigured`."""
        found = self._given.get(option, "chatkeep")
        if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", found):
            raise self.wrong(f"the {option} {found!r} must be letters, digits and _ . : - only.")
        return found

    def seconds(self, option: str, default: float) -> float:
        """Return an option that is a time in seconds. Raises `Misconfigured`."""
        try:
            found = float(self._given.get(option, default))
        except ValueError:
            found = 0.0
        if not 0.0 < found < 3600.0:
            raise self.wrong(f"{option} is a number of seconds.")
        return found

    def is_on(self, option: str, *, default: bool) -> bool:
        """Tell whether an option is `yes`. Raises `Misconfigured` where it is neither that nor `no`."""
        found = self._given.get(option)
        if found not in (None, "yes", "no"):
            raise self.wrong(f"{option} is yes or no.")
        return default if found is None else found == "yes"

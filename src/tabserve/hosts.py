"""The Host header: what one looks like, and to which names a server answers."""

import re
from collections.abc import Iterable

from tabserve.errors import BadRequest, Misdirected

# A name, an IPv4 address or a bracketed IPv6 one, and a port. Of what RFC 3986 allows in a name,
# what names are made of. Two headers, joined by a comma, are none.
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{0,5})?")

# Of the machine itself.
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")

# Those that are remembered; a client may send any.
_MOST_USUAL = 1000


class Hosts:
    """allowed: names without ports, `*.example.org` for all below one; all names where empty.

    usual: headers that were found right, so that most requests are looked up and not checked.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        names = [name.lower() for name in allowed]
        self._names = {name for name in names if not name.startswith("*.")}
        self._below = tuple(name[1:] for name in names if name.startswith("*."))
        self._are_all = not names
        self.usual: set[str] = set()

    def check(self, host: str | None, *, is_public: bool) -> None:
        """Raises BadRequest for what is no host, Misdirected for one that is not ours.

        host: None where there is no such header, as probes in HTTP/1.0 have none.
        is_public: of a route that tells nothing that is not told to everybody: probes are sent to
        addresses, and not to names.
        """
        if host is None and (self._are_all or is_public):
            return
        found = _HOST.fullmatch(host or "")
        if found is None:
            raise BadRequest("Expected one Host header, with a name or an address and a port.")
        if self._is_ours(found["name"].lower()):
            if len(self.usual) >= _MOST_USUAL:
                self.usual.clear()
            self.usual.add(found.string)
        elif not is_public:
            raise Misdirected("This server does not answer to the name in the Host header.")

    def _is_ours(self, name: str) -> bool:
        return self._are_all or name in self._names or name.endswith(self._below)

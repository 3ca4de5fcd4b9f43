"""The sockets that a server listens on."""

import errno
import socket
from dataclasses import dataclass

from tabserve.errors import InvalidSettings

# Connections that may wait to be taken.
BACKLOG = 2048


@dataclass(frozen=True)
class Listener:
    """name: what is answered on it."""

    name: str
    socket: socket.socket

    @property
    def url(self) -> str:
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bound(name: str, host: str, port: int) -> Listener:
    """Raises InvalidSettings where somebody else has the port, or nobody the host."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except (OSError, OverflowError, TypeError, UnicodeError) as error:  # the last two: no name
        listening.close()
        why = getattr(error, "strerror", None) or error
        flag = "--admin-port" if name == "admin" else "--port"
        is_port = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        raise InvalidSettings(
            f"Cannot listen on {host}:{port}: {why}. Choose another "
            f"{flag if is_port else flag.replace('port', 'host')}."
        ) from None
    listening.set_inheritable(True)
    return Listener(name, listening)

"""Cuts the network: whatever is not loopback cannot be looked up or reached, and who was asked for is written down.

guard.cut(file)         # from here on, in this process; one line in `file` for each attempt
guard.isolate()         # starts this program again where the kernel has loopback alone, if this system allows that

`cut` sees Python's socket module only: what a library's native code asks for is in no list, and is not refused unless
`isolate` worked.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from typing import Any

_LOOPBACK = ("127.", "::1", "localhost")
_APART = ("unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
_DONE = "PEERS_NETWORK"


def isolate() -> str:
    """What cuts the network, in words; does not return where the program is started again."""
    if _DONE not in os.environ:
        able = shutil.which(_APART[0]) and not subprocess.run([*_APART, "true"], capture_output=True).returncode
        os.environ[_DONE] = "a network namespace with loopback alone" if able else "Python's socket module alone"
        if able:
            os.execvp(_APART[0], [*_APART, sys.executable, *sys.argv])
    return os.environ[_DONE]


def cut(file: str) -> None:
    """Every attempt fails at once, as on a machine without a network."""
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    real_connect, real_lookup = socket.socket.connect, socket.getaddrinfo
    real_send = socket.socket.sendto

    def foreign(address: Any) -> bool:
        if not isinstance(address, tuple) or not address[0]:
            return False  # a socket of this machine: a path, or nobody named
        host = address[0].decode() if isinstance(address[0], bytes) else str(address[0])
        if host.startswith(_LOOPBACK):
            return False
        os.write(log, f"{host}\n".encode())
        return True

    def connect(self: socket.socket, address: Any) -> Any:
        if foreign(address):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return real_connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        if foreign(address):
            return errno.ENETUNREACH
        try:
            real_connect(self, address)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def sendto(self: socket.socket, data: Any, *rest: Any) -> Any:
        if foreign(rest[-1]):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return real_send(self, data, *rest)

    def lookup(host: Any, *rest: Any, **named: Any) -> Any:
        if foreign((host,)):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real_lookup(host, *rest, **named)

    socket.socket.connect = connect  # type: ignore[method-assign,assignment]
    socket.socket.connect_ex = connect_ex  # type: ignore[method-assign,assignment]
    socket.socket.sendto = sendto  # type: ignore[method-assign,assignment]
    socket.getaddrinfo = lookup

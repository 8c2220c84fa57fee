"""Where servers run: in network namespaces that can be cut off, or else all on the loopback."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_libc = ctypes.CDLL(None, use_errno=True)  # Python's own os.unshare is as new as 3.12


class Host:
    """A machine to the servers on it: an address, and a cable if it is in a namespace."""

    def __init__(self, address: str, namespace: int | None = None, cable: str = "") -> None:
        self.address = address
        self._namespace = namespace
        self._cable = cable

    @property
    def can_be_cut(self) -> bool:
        return self._namespace is not None

    @property
    def cut_name(self) -> str:
        """What it is called, by what stands in for it where it can't be."""
        return "cut off" if self.can_be_cut else "cut off (SIGSTOP)"

    def popen(self, command: list[object], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process here."""
        with _inside(self._namespace):
            return subprocess.Popen([str(part) for part in command], **options)

    def free_port(self) -> int:
        """A port on which nothing listens here."""
        with _inside(self._namespace), socket.socket() as probe:
            probe.bind((self.address, 0))
            port: int = probe.getsockname()[1]
            return port

    def cut(self) -> None:
        """Nothing comes or goes any more; nobody is told."""
        _ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        """Undo that."""
        _ip("link", "set", self._cable, "up")

    def part(self, others: Iterable[Host]) -> None:
        """Nothing goes to these any more, nor comes from them; all else stays as it is."""
        self._route("add", others)

    def rejoin(self, others: Iterable[Host]) -> None:
        """Undo that."""
        self._route("delete", others)

    def _route(self, change: str, others: Iterable[Host]) -> None:
        for other in others:
            for source, target in ((self, other), (other, self)):
                with _inside(source._namespace):
                    _ip("route", change, "blackhole", target.address)


class Network:
    """A private one for this process and its children, which ends with the last of them.

    Where this process may have none, all hosts are the loopback, and none can be cut off.
    """

    def __init__(self) -> None:
        self._hosts = 0
        self._is_private = False
        if os.geteuid() != 0 or shutil.which("ip") is None:
            return
        before = _namespace()
        try:
            _call("unshare", _NEW_NETWORK)
            _ip("link", "set", "lo", "up")
            _ip("link", "add", "soak", "type", "bridge")
            _ip("address", "add", "10.77.0.1/24", "dev", "soak")
            _ip("link", "set", "soak", "up")
            self._is_private = True
        except (OSError, subprocess.CalledProcessError):  # a container without the rights
            _call("setns", before, 0)
        finally:
            os.close(before)

    def new_host(self) -> Host:
        """One more machine."""
        if not self._is_private:
            return Host("127.0.0.1")
        self._hosts += 1
        address, cable = f"10.77.0.{self._hosts + 1}", f"soak{self._hosts}"
        home = _namespace()
        _call("unshare", _NEW_NETWORK)
        there = _namespace()
        _call("setns", home, 0)
        os.close(home)
        peer = ["type", "veth", "peer", "name", "eth0", "netns", f"/proc/{os.getpid()}/fd/{there}"]
        _ip("link", "add", cable, *peer)
        _ip("link", "set", cable, "master", "soak", "up")
        with _inside(there):
            _ip("link", "set", "lo", "up")
            _ip("address", "add", f"{address}/24", "dev", "eth0")
            _ip("link", "set", "eth0", "up")
        return Host(address, there, cable)


@contextmanager
def _inside(namespace: int | None) -> Iterator[None]:
    """What this thread does, sockets and children included, belongs to the namespace."""
    if namespace is None:
        yield
        return
    before = _namespace()
    _call("setns", namespace, 0)
    try:
        yield
    finally:
        _call("setns", before, 0)
        os.close(before)


def _namespace() -> int:
    """The current one, as a file descriptor that keeps it alive."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)

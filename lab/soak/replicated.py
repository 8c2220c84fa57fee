"""Stores of several nodes, which elect another primary when one is gone: Sentinel and Cluster."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from redis.exceptions import RedisError

from .faults import Fault
from .network import Network
from .servers import DURABLE, Valkey
from .stores import Store
from .waiting import wait_until

PROMPT = ("--repl-diskless-sync-delay", 0)  # a replica that is asked to copy does so at once


@contextmanager
def sentinel(folder: Path, network: Network, random: Random) -> Iterator[Store]:
    with Sentinels(folder, network).running(random) as store:
        yield store


@contextmanager
def cluster(folder: Path, network: Network, random: Random) -> Iterator[Store]:
    with Cluster(folder, network).running(random) as store:
        yield store


class Replicated(ABC):
    """``nodes`` hold data, ``others`` watch them."""

    def __init__(self, nodes: list[Valkey], others: list[Valkey]) -> None:
        self.nodes = nodes
        self._all = [*nodes, *others]

    @property
    @abstractmethod
    def uri(self) -> str:
        """What the app is told."""

    @abstractmethod
    def join(self) -> None:
        """Start all, and make one store of them."""

    @abstractmethod
    def primaries(self) -> list[Valkey]:
        """The nodes that take writes."""

    @abstractmethod
    def has_successor(self, node: Valkey) -> bool:
        """Whether another one does now what this primary did."""

    @abstractmethod
    def is_whole(self) -> bool:
        """Whether each primary has its replicas, and all agree."""

    @contextmanager
    def running(self, random: Random) -> Iterator[Store]:
        """Until the block ends."""
        with ExitStack() as stack:
            for node in self._all:
                stack.callback(node.stop)
            self.join()
            is_whole = partial(_surely, self.is_whole)
            wait_until(is_whole, "a store of all nodes")
            yield Store.in_cache(self.uri, self._faults(random, is_whole), is_whole)

    def _faults(self, random: Random, is_whole: Callable[[], bool]) -> list[Fault]:
        def fail_over(
            begin: Callable[[Valkey], None], end: Callable[[Valkey], None], seconds: float
        ) -> None:
            node = random.choice(self.primaries())
            begin(node)
            try:
                wait_until(partial(_surely, self.has_successor, node), "a failover")
                time.sleep(seconds)
            finally:
                end(node)

        acts: dict[str, Callable[[float], None]] = {
            "primary killed": partial(fail_over, Valkey.kill, Valkey.start),
            "primary cut off from its peers": partial(fail_over, self._part, self._rejoin),
            f"primary {self.nodes[0].host.cut_name}": partial(fail_over, Valkey.cut, Valkey.mend),
            "primary paused": partial(fail_over, Valkey.pause, Valkey.resume),
            "store killed": self._kill_all,
        }
        if not self.nodes[0].host.can_be_cut:
            del acts["primary cut off from its peers"]
        return [Fault(kind, act, is_whole) for kind, act in acts.items()]

    def _part(self, node: Valkey) -> None:
        node.host.part(each.host for each in self._all if each is not node)

    def _rejoin(self, node: Valkey) -> None:
        node.host.rejoin(each.host for each in self._all if each is not node)

    def _kill_all(self, seconds: float) -> None:
        for node in self._all:
            node.kill()
        time.sleep(seconds)
        for node in self._all:
            node.launch()
        for node in self._all:
            wait_until(node.is_up, "a restart")


class Sentinels(Replicated):
    """A primary, two replicas, and three Sentinels."""

    def __init__(self, folder: Path, network: Network) -> None:
        nodes: list[Valkey] = []
        for number in range(3):
            config = f"replicaof {nodes[0].host.address} {nodes[0].port}\n" if nodes else ""
            host, place = network.new_host(), folder / f"node{number}"
            nodes.append(Valkey(host, place, *DURABLE, *PROMPT, config=config))
        config = (
            f"sentinel monitor soak {nodes[0].host.address} {nodes[0].port} 2\n"
            "sentinel down-after-milliseconds soak 1000\n"
            "sentinel failover-timeout soak 6000\n"
        )
        self._sentinels = [
            Valkey(network.new_host(), folder / f"sentinel{number}", "--sentinel", config=config)
            for number in range(3)
        ]
        super().__init__(nodes, self._sentinels)

    @property
    def uri(self) -> str:
        return f"redis+sentinel://{','.join(each.address for each in self._sentinels)}/soak/0"

    def join(self) -> None:
        for node in self.nodes:
            node.start()
        wait_until(lambda: _are_linked(self.nodes, primaries=1), "replicas")
        for each in self._sentinels:  # which learn of the replicas when they start
            each.start()

    def primaries(self) -> list[Valkey]:
        address = self._primary(self._sentinels[0])
        return [node for node in self.nodes if node.address == address]

    def has_successor(self, node: Valkey) -> bool:
        return all(self._primary(each) != node.address for each in self._sentinels)

    def is_whole(self) -> bool:
        return (
            len({self._primary(each) for each in self._sentinels}) == 1
            and all(map(self._knows_all, self._sentinels))
            and _are_linked(self.nodes, primaries=1)
        )

    def _primary(self, sentinel: Valkey) -> str:
        return ":".join(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "soak"))

    def _knows_all(self, sentinel: Valkey) -> bool:
        seen = sentinel.ask("SENTINEL", "MASTER", "soak")
        counts = (seen["num-slaves"], seen["num-other-sentinels"])
        return seen["flags"] == "master" and counts == ("2", "2")


class Cluster(Replicated):
    """Three primaries, each with a replica."""

    SLOTS = ((0, 5460), (5461, 10922), (10923, 16383))
    OPTIONS = ("--cluster-enabled", "yes", "--cluster-node-timeout", 2000)  # milliseconds

    def __init__(self, folder: Path, network: Network) -> None:
        hosts = [network.new_host() for _ in range(6)]
        self._bus_ports = [host.free_port() for host in hosts]
        options = (*DURABLE, *PROMPT, *self.OPTIONS)
        nodes = [
            Valkey(host, folder / f"node{number}", *options, "--cluster-port", bus_port)
            for number, (host, bus_port) in enumerate(zip(hosts, self._bus_ports, strict=True))
        ]
        super().__init__(nodes, [])

    @property
    def uri(self) -> str:
        return f"redis+cluster://{','.join(node.address for node in self.nodes)}"

    def join(self) -> None:
        for node in self.nodes:
            node.start()
        primaries, replicas = self.nodes[:3], self.nodes[3:]
        self._ids: dict[Valkey, str] = {node: node.ask("CLUSTER", "MYID") for node in self.nodes}
        for node, slots in zip(primaries, self.SLOTS, strict=True):
            node.ask("CLUSTER", "ADDSLOTSRANGE", *slots)
        for node, bus_port in zip(self.nodes, self._bus_ports, strict=True):
            primaries[0].ask("CLUSTER", "MEET", node.host.address, node.port, bus_port)
        wait_until(lambda: all(len(_seen_by(node)) == 6 for node in self.nodes), "a meeting")
        for primary, replica in zip(primaries, replicas, strict=True):
            replica.ask("CLUSTER", "REPLICATE", self._ids[primary])

    def primaries(self) -> list[Valkey]:
        return [node for node in self.nodes if node.ask("ROLE")[0] == "master"]

    def has_successor(self, node: Valkey) -> bool:
        others = [each for each in self.nodes if each is not node]
        return not any(_seen_by(each)[self._ids[node]].slots for each in others)

    def is_whole(self) -> bool:
        return (
            _are_linked(self.nodes, primaries=3)
            and all("cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in self.nodes)
            and not any(each.is_failing for node in self.nodes for each in _seen_by(node).values())
        )


def _surely(question: Callable[..., bool], *arguments: object) -> bool:
    """The answer, or False where a node that was asked is loading, or away."""
    try:
        return question(*arguments)
    except RedisError:
        return False


def _are_linked(nodes: list[Valkey], *, primaries: int) -> bool:
    """Whether each of so many primaries has as many replicas as the others, all connected."""
    roles = [node.ask("ROLE") for node in nodes]
    replicas = [len(role[2]) for role in roles if role[0] == "master"]
    links = [role[3] for role in roles if role[0] == "slave"]
    return replicas == [len(links) // primaries] * primaries and set(links) == {"connected"}


@dataclass(frozen=True)
class _Seen:
    """A node of a cluster, in the eyes of another."""

    is_failing: bool
    slots: list[str]


def _seen_by(node: Valkey) -> dict[str, _Seen]:
    """All that a node knows of, by their ids."""
    lines = (line.split() for line in node.ask("CLUSTER", "NODES").splitlines())
    return {words[0]: _Seen("fail" in words[2], words[8:]) for words in lines}

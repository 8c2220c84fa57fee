"""redis-py's clients for the URI of a cache, and its errors in words that help."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterCrossSlotError,
    ClusterError,
    MovedError,
    RedisError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from .cluster import Cluster
from .server import Server
from .uri import Address, CacheURI

CLOSED = ("reset by peer", "closed by server", "Connection lost", "Broken pipe")
NODE_OF_CLUSTER = "the server is a node of a Cluster: its scheme is redis+cluster"


def connect(uri: CacheURI) -> Server | Cluster:
    """The server, the primary that sentinels name, or the Cluster. Nothing connects yet."""
    options: dict[str, Any] = {
        "ssl": uri.is_tls,
        "protocol": 2,  # in which a server says nothing that it was not asked
        "retry": Retry(NoBackoff(), 0),  # a batch is sent again as a whole, by Server
        "socket_timeout": None,  # as for a batch
        "socket_connect_timeout": uri.connect_timeout,
        "socket_keepalive": True,  # finds out that an idle connection is lost
        **uri.options,
        **uri.login,
    }

    def server(open_client: Callable[[], Any]) -> Server:
        timeouts = {"timeout": uri.timeout, "connect_timeout": uri.connect_timeout}
        return Server(open_client, connections=uri.connections, **timeouts)

    def open_node(address: Address) -> Server:
        return server(lambda: Redis(host=address.host, port=address.port, **options))

    def open_primary() -> Any:
        new_pool: Any = SentinelConnectionPool
        return Redis.from_pool(new_pool(uri.path, _Sentinels(uri), **options))

    match uri.kind:
        case "cluster":
            return Cluster(open_node, uri.addresses)
        case "sentinel":
            return server(open_primary)
        case "unix":
            return server(lambda: Redis(unix_socket_path=uri.path, **options))
        case _:
            return open_node(uri.addresses[0])


def explain(error: Exception, uri: CacheURI) -> str:
    """What went wrong, and what to look at in the URI."""
    is_late = isinstance(error, (TimeoutError, RedisTimeoutError))
    text = str(error).strip().rstrip(".")
    if is_late or not text:  # where it is one of several, no error says which
        text = "no answer in time" + ("" if uri.kind else " from {}:{}".format(*uri.addresses[0]))
    if isinstance(error, MasterNotFoundError):
        return text
    if isinstance(error, AuthenticationError):
        return "the user or the password is wrong, or missing"
    is_of_cluster = isinstance(error, (ClusterError, ClusterCrossSlotError, MovedError))
    if (is_of_cluster or "in cluster mode" in text) and uri.kind != "cluster":
        return NODE_OF_CLUSTER
    if "cluster support disabled" in text:
        return "the server is not in cluster mode: its scheme is redis"
    if "unknown command 'SENTINEL'" in text:
        return "the server is no sentinel: its scheme is redis"
    if "unknown command" in text:
        return f"{text.partition(',')[0]}: is it a sentinel? Its scheme is redis+sentinel"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{text}: ssl_ca_certs names a file of certificates to trust"
    if uri.is_tls and (is_late or "[SSL" in text):
        return f"{text}: does the server speak TLS? Without, its scheme is redis"
    if not uri.is_tls and any(words in text for words in CLOSED):
        return f"{text}: does the server want TLS? Then its scheme is rediss"
    return text


class _Sentinels:
    """Whom redis-py's pool asks for the primary when a connection begins.

    redis-py's own class waits for each sentinel in turn, in the order of the URI, and tells of a
    failure by the names of its objects.
    """

    def __init__(self, uri: CacheURI) -> None:
        self._uri = uri
        tls = {name: value for name, value in uri.options.items() if name.startswith("ssl_")}
        options = {"ssl": uri.is_tls, "retry": Retry(NoBackoff(), 0), "decode_responses": True}
        self._options: dict[str, Any] = {**options, **tls, **uri.sentinel_login}
        # One that does not answer leaves time for the others, and for the server itself.
        self._timeout = uri.connect_timeout / (len(uri.addresses) + 1)

    async def discover_master(self, service: str) -> tuple[str, int]:
        """Where the primary is, as the first sentinel says that answers."""
        fault = ""
        for host, port in random.sample(self._uri.addresses, len(self._uri.addresses)):
            sentinel: Any = Redis(host=host, port=port, **self._options)
            try:
                async with asyncio.timeout(self._timeout), sentinel:
                    found = await sentinel.sentinel_get_master_addr_by_name(service)
            except (RedisError, OSError) as error:
                fault = f"sentinel {host}:{port}: {explain(error, self._uri)}"
                continue
            if found:
                return found[0], int(found[1])
            fault = f"the sentinels know no service {service!r}"
        raise MasterNotFoundError(fault)

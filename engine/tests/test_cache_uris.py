"""URIs of caches that are wrong in one place: each has its own message, and no password in it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from serversessions import StoreUnavailable
from serversessions.config import ConfigError
from serversessions.stores import describe, open_store
from serversessions.stores.redis import RedisStore
from serversessions.stores.redis.uri import CONNECTIONS, TIMEOUT, parse_cache_uri
from serversessions.testing import servers

from .nodes import Node

SECRET = "s3cret"
HASTE = "socket_timeout=0.5&socket_connect_timeout=0.5"


class TestReading:
    @pytest.mark.parametrize(
        ("uri", "kind", "addresses", "path", "database"),
        [
            ("redis://h", "", [("h", 6379)], "", 0),
            ("valkey://h:1/2", "", [("h", 1)], "", 2),
            ("rediss://u:p%40@[::1]:1/", "", [("::1", 1)], "", 0),
            ("unix:///run/a@b.sock?db=3", "unix", [], "/run/a@b.sock", 3),
            ("redis+sentinel://h,g:1/app", "sentinel", [("h", 26379), ("g", 1)], "app", 0),
            ("rediss+sentinel://:p@h:1/my%20app/4", "sentinel", [("h", 1)], "my app", 4),
            ("redis+cluster://u:p@h:1,[::1]/0", "cluster", [("h", 1), ("::1", 6379)], "", 0),
        ],
    )
    def test_a_uri_names_servers(
        self, uri: str, kind: str, addresses: list[tuple[str, int]], path: str, database: int
    ) -> None:
        read = parse_cache_uri(uri)
        assert (read.kind, read.path, read.login["db"]) == (kind, path, database)
        assert list(read.addresses) == addresses
        assert read.is_tls == uri.startswith("rediss")

    def test_users_passwords_and_options_are_read(self) -> None:
        read = parse_cache_uri("redis+sentinel://a:b%2Fc@h/app?sentinel_password=d%26&prefix=e")
        assert read.login == {"username": "a", "password": "b/c", "db": 0}
        assert read.sentinel_login == {"username": None, "password": "d&"}
        assert (read.prefix, read.connections) == ("e", CONNECTIONS)
        assert (read.timeout, read.connect_timeout, read.options) == (TIMEOUT, TIMEOUT, {})
        read = parse_cache_uri("redis://h?socket_timeout=.5&client_name=web&max_connections=4")
        assert (read.timeout, read.options) == (0.5, {"client_name": "web"})
        assert (read.connections, read.prefix) == (4, None)
        read = parse_cache_uri("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false")
        assert read.options["ssl_check_hostname"] is False

    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("memcached://h", "allowed schemes: memory, file, postgresql, sqlite, redis, redis+cl"),
            ("redis+sentinal://h/app", "allowed schemes: "),
            ("redis://:s3cret@", "host: missing; allowed: redis://HOST:PORT/DATABASE"),
            ("redis+cluster://:s3cret@h:1,,g:2", "host: missing; allowed: redis+cluster://HOST"),
            ("redis://h,g", "host: several; allowed: one, or several with redis+sentinel://"),
            ("redis://[::1/0", "host: allowed: a name or an address, of IPv6 in brackets"),
            ("redis://h:x", "port of h: allowed: a number from 1 to 65535"),
            ("redis://h:", "port of h: allowed: "),
            ("redis+sentinel://u:s3cret@h:1,g:0/app", "port of g: allowed: "),
            ("redis+cluster://u:s3cret@h:1,g:65536", "port of g: allowed: "),
            ("redis+sentinel://h", "service: missing; allowed: redis+sentinel://HOST:PORT"),
            ("redis+sentinel://h//0", "service: missing"),
            ("redis://h/x", "database: allowed: a number from 0"),
            ("redis://h/-1", "database: allowed: "),
            ("redis+sentinel://h/app/x", "database: allowed: "),
            ("unix:///run/x?db=x", "db: allowed: a number from 0"),
            ("unix://?db=0", "path: missing; allowed: unix:///PATH?db=DATABASE"),
            ("unix://run/x.sock", "path: missing; allowed: unix:///PATH?db=DATABASE, with three"),
            ("redis+cluster://h/1", "database: allowed: 0, since a Cluster has no other"),
            ("redis://h?socket_timeot=1", "socket_timeot: unknown option; allowed: socket_"),
            ("redis://h?ssl_certfile=x", "ssl_certfile: unknown option"),
            ("redis://h?sentinel_password=s3cret", "sentinel_password: unknown option"),
            ("redis://h?socket_timeout=soon", "socket_timeout: allowed: seconds to wait for an"),
            ("redis://h?socket_connect_timeout=0", "socket_connect_timeout: allowed: seconds"),
            ("redis://h?socket_timeout=inf", "socket_timeout: allowed: "),
            ("redis://h?max_connections=0", "max_connections: allowed: connections to each"),
            ("redis://h?client_name=a%20b", "client_name: allowed: letters, digits and"),
            ("redis://h?prefix=", "prefix: allowed: letters, digits and"),
            ("rediss://h?ssl_ca_certs=/no/file", "ssl_ca_certs: allowed: a file that is there"),
            ("rediss://h?ssl_cert_reqs=maybe", 'ssl_cert_reqs: allowed: "required", or "none"'),
        ],
    )
    def test_a_wrong_part_is_named_with_what_is_allowed(self, uri: str, message: str) -> None:
        with pytest.raises(ConfigError) as error:
            open_store(uri)
        assert f"; {message}" in str(error.value)
        assert SECRET not in str(error.value)

    @pytest.mark.parametrize(
        "uri",
        [
            "redis+cluster://user:s3cret@h1:1,h2:2",
            "redis+sentinel://:s3cret@h1:1,h2:2/app/0?prefix=x",
            "redis+sentinel://h1,h2/app?sentinel_username=u&sentinel_password=s3cret",
        ],
    )
    def test_passwords_are_hidden_wherever_there_are_several_hosts(self, uri: str) -> None:
        assert SECRET not in describe(uri) + repr(parse_cache_uri(uri))
        assert "h2" in describe(uri)


@dataclass
class Ports:
    """The ports of servers that are all different."""

    plain: int
    locked: int  # with a password
    node: int  # of a Cluster
    sentinel: int
    closed: int


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("ports")
    with ExitStack() as stack:

        def begin(name: str, *options: object) -> int:
            node = Node(folder / name, *options)
            stack.callback(node.stop)
            return node.port

        locked = begin("locked", "--requirepass", "right")
        settings = folder / "sentinel.conf"
        settings.write_text(
            f"sentinel monitor app 127.0.0.1 {locked} 1\nsentinel auth-pass app right\n"
        )
        uri = stack.enter_context(servers.cluster())
        yield Ports(
            begin("plain"),
            locked,
            int(uri.rpartition(":")[2]),
            begin("sentinel", settings, "--sentinel"),
            servers.free_port(),
        )


async def complaint(uri: str) -> str:
    """What a ping says that is wrong; nothing if all is well."""
    store = RedisStore(uri)
    try:
        await store.ping()
    except StoreUnavailable as error:
        return str(error)
    finally:
        await store.aclose()
    return ""


# A host whose name begins with "-" is none, which the system says without asking any resolver.
@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("redis://127.0.0.1:{0.plain}", ""),
        ("redis://:right@127.0.0.1:{0.locked}", ""),
        ("redis+sentinel://:right@127.0.0.1:{0.sentinel}/app", ""),
        ("redis+sentinel://:right@-no-such-host,127.0.0.1:{0.sentinel}/app", ""),
        ("redis+cluster://127.0.0.1:{0.node}", ""),
        ("redis+cluster://-no-such-host,127.0.0.1:{0.node}", ""),
        ("redis://127.0.0.1:{0.closed}", "Connect call failed"),
        ("redis+cluster://127.0.0.1:{0.closed}", "Connect call failed"),
        ("redis+sentinel://127.0.0.1:{0.closed}/app", "sentinel 127.0.0.1:"),
        ("redis://-no-such-host", "-no-such-host:6379"),
        ("unix:///no/such.sock", "/no/such.sock. No such file"),
        ("redis://127.0.0.1:{0.plain}/99", "DB index is out of range"),
        ("redis://:s3cret@127.0.0.1:{0.locked}", "the user or the password is wrong, or missing"),
        ("redis://127.0.0.1:{0.locked}", "the user or the password is wrong, or missing"),
        (
            "redis+sentinel://:s3cret@127.0.0.1:{0.sentinel}/app",
            "the user or the password is wrong, or missing",
        ),
        ("redis+cluster://:right@127.0.0.1:{0.locked}", "not in cluster mode: its scheme is redis"),
        ("redis://127.0.0.1:{0.node}", "a node of a Cluster: its scheme is redis+cluster"),
        ("redis+sentinel://127.0.0.1:{0.sentinel}/ap", "the sentinels know no service 'ap'"),
        ("redis+sentinel://127.0.0.1:{0.plain}/app", "is no sentinel: its scheme is redis"),
        ("redis://127.0.0.1:{0.sentinel}", "is it a sentinel? Its scheme is redis+sentinel"),
        ("redis+cluster://127.0.0.1:{0.sentinel}", "is it a sentinel? Its scheme is redis+sent"),
        (f"rediss://127.0.0.1:{{0.plain}}?{HASTE}", "does the server speak TLS?"),
        (f"rediss+cluster://127.0.0.1:{{0.node}}?{HASTE}", "does the server speak TLS?"),
        (f"rediss+sentinel://127.0.0.1:{{0.sentinel}}/app?{HASTE}", "does the server speak TLS?"),
    ],
)
async def test_a_ping_says_what_is_wrong(ports: Ports, uri: str, message: str) -> None:
    said = await complaint(uri.format(ports))
    assert message in said
    assert bool(said) is bool(message)
    assert SECRET not in said


async def test_a_ping_names_the_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert await complaint(f"redis://{address}?{HASTE}") == (
            f"cache: no answer in time from {address}"
        )

"""A cache behind TLS, by Debian's redis-server: no wheel ships one that speaks it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serversessions.stores.redis import RedisStore
from serversessions.testing import servers

from .programs import need
from .test_cache_uris import complaint


@dataclass(frozen=True)
class TlsServer:
    """One that speaks TLS alone, and the certificate that it shows."""

    port: int
    certificate: Path
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    make = (need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes")
    name = ("-subj", "/CN=localhost")
    files = ("-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate)
    subprocess.run((*make, *name, *files), check=True, capture_output=True)
    port = servers.free_port()
    server = (need("redis-server"), "--port", 0, "--tls-port", port, "--dir", folder, "--save", "")
    shown = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no")
    with servers.running([*server, *shown], port, signal.SIGTERM) as process:
        yield TlsServer(port, certificate, process)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("rediss://localhost:{0}?ssl_ca_certs={1}", ""),
        ("valkeys://localhost:{0}?ssl_ca_certs={1}", ""),
        ("rediss://127.0.0.1:{0}?ssl_cert_reqs=none", ""),
        ("rediss://127.0.0.1:{0}?ssl_ca_certs={1}&ssl_check_hostname=false", ""),
        ("rediss://127.0.0.1:{0}?ssl_ca_certs={1}", "is not valid for '127.0.0.1'"),
        ("rediss://localhost:{0}", "ssl_ca_certs names a file of certificates to trust"),
        ("redis://localhost:{0}", "does the server want TLS? Then its scheme is rediss"),
        ("redis+cluster://localhost:{0}", "does the server want TLS? Then its scheme is rediss"),
        ("redis+sentinel://localhost:{0}/app", "does the server want TLS? Then its scheme is redi"),
        ("rediss+cluster://localhost:{0}?ssl_ca_certs={1}", "not in cluster mode"),
        ("rediss+sentinel://localhost:{0}/app?ssl_ca_certs={1}", "is no sentinel"),
    ],
)
async def test_a_ping_says_what_is_wrong_with_tls(tls: TlsServer, uri: str, message: str) -> None:
    said = await complaint(uri.format(tls.port, tls.certificate))
    assert message in said
    assert bool(said) is bool(message)


async def test_a_server_that_hangs_does_not_hold_up_the_end(tls: TlsServer) -> None:
    uri = f"rediss://localhost:{tls.port}?ssl_ca_certs={tls.certificate}&socket_connect_timeout=0.5"
    store = RedisStore(uri)
    await store.ping()
    tls.process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(1):
            await store.aclose()
    finally:
        tls.process.send_signal(signal.SIGCONT)

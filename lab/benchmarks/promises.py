"""What sessions promise, each as a small scenario that any candidate can be put through.

A scenario acts as browsers do, over ASGI, and judges by what they see and by what the store is
asked and holds. Its docstring says what is done; the table's notes are made of it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message

from .backends import open_backend
from .candidates import Candidate, Setup

MAX_COOKIE = 4096  # bytes of name and value: RFC 6265bis 5.6
IDLE, ABSOLUTE = 2, 5  # seconds; less than two is too little for clocks that count whole ones
PAUSE = 0.4
PATIENCE = 60  # seconds, for clients that try again


@dataclass(frozen=True)
class Finding:
    """Whether a promise is kept, "yes", "partly" or "no", and what happened in a few words."""

    verdict: str
    words: str = ""


@dataclass
class Reply:
    """What a browser got."""

    status: int
    value: Any
    headers: MutableHeaders
    error: str


@dataclass
class Browser:
    """A visitor with cookies, in front of an app that is called in process."""

    app: ASGIApp
    setup: Setup
    cookies: dict[str, str] = field(default_factory=dict)

    def copy(self) -> Self:
        """Another browser with the same cookies: a second device, or a thief."""
        return type(self)(self.app, self.setup, dict(self.cookies))

    async def act(self, action: str, **query: Any) -> Reply:
        """Send a request that must succeed, and keep the cookies of the answer.

        Raises:
            RuntimeError: it does not.
        """
        reply = await self.try_to(action, **query)
        if reply.status != 200:
            raise RuntimeError(f"{action} was answered with {reply.status}: {reply.error}")
        return reply

    async def try_to(self, action: str, **query: Any) -> Reply:
        """Send a request, and keep the cookies of the answer, whatever it is."""
        messages: list[Message] = []
        inbox: asyncio.Queue[Message] = asyncio.Queue()
        inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})

        async def send(message: Message) -> None:
            messages.append(message)

        self.setup.errors.clear()
        try:
            await self.app(self._scope(f"/act/{action}", query), inbox.get, send)
        except Exception as raised:
            self.setup.errors.append(raised)
        notes = (note for each in self.setup.errors for note in getattr(each, "__notes__", ()))
        error = " ".join([*map(str, self.setup.errors), *notes])
        if not messages:
            return Reply(500, None, MutableHeaders(), error)
        raw = messages[0].get("headers", ())  # Django's names are not in lower case
        headers = MutableHeaders(raw=[(name.lower(), value) for name, value in raw])
        for name, value in headers.items():
            if name == "set-cookie":
                self._keep(value)
        body = b"".join(message.get("body", b"") for message in messages[1:])
        return Reply(messages[0]["status"], _parse(body), headers, error)

    async def read(self, key: str) -> Any:
        """What the session holds, None where the visitor is unknown."""
        return (await self.act("read", key=key)).value

    async def write(self, key: str, value: Any) -> Reply:
        return await self.act("write", key=key, value=json.dumps(value))

    def _scope(self, path: str, query: dict[str, Any]) -> dict[str, Any]:
        headers = [(b"host", b"example.com"), (b"user-agent", b"comparison")]
        if self.cookies:
            pairs = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
            headers.append((b"cookie", pairs.encode()))
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": path,
            "raw_path": quote(path).encode(),
            "root_path": "",
            "query_string": urlencode(query).encode(),
            "headers": headers,
            "client": ("127.0.0.1", 50000),
            "server": ("example.com", 443),
            "state": {},
        }

    def _keep(self, set_cookie: str) -> None:
        for name, cookie in SimpleCookie(set_cookie).items():
            if cookie["max-age"] == "0" or "1970" in cookie["expires"]:
                self.cookies.pop(name, None)
            elif len(name) + len(cookie.value) <= MAX_COOKIE:
                self.cookies[name] = cookie.value


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


class Lab:
    """A candidate with a store of its own."""

    def __init__(self, candidate: Candidate, folder: Path) -> None:
        self._servers = ExitStack()
        self.candidate = candidate
        self.backend = self._servers.enter_context(
            open_backend(candidate.store or "memory", folder / candidate.name)
        )
        self.watch = candidate.watch(self.backend.url)

    @asynccontextmanager
    async def open(self, setup: Setup) -> AsyncIterator[Visit]:
        """The app, with an empty store or one that others have used before."""
        async with self.candidate.open(self.backend, setup) as app:
            yield Visit(self, app, setup)

    def stop_store(self) -> None:
        """Stop the store's server."""
        self._servers.close()


@dataclass
class Visit:
    """A running app of a lab."""

    lab: Lab
    app: ASGIApp
    setup: Setup

    def browser(self) -> Browser:
        return Browser(self.app, self.setup)

    async def signed_in(self) -> Browser:
        browser = self.browser()
        await browser.act("sign-in", user="alice")
        if await browser.read("user") != "alice":
            raise RuntimeError(f"{self.lab.candidate.name} forgot who signed in")
        return browser

    @asynccontextmanager
    async def slow(self, browser: Browser, key: str) -> AsyncIterator[asyncio.Task[Reply]]:
        """A request that loads the session before the block, and writes a key after it."""
        self.setup.reached.clear()
        self.setup.may_go_on.clear()
        request = asyncio.create_task(browser.try_to("slow", key=key, value='"slow"'))
        await self.setup.reached.wait()
        yield request
        self.setup.may_go_on.set()
        await request


async def fixation(visit: Visit) -> Finding:
    """A browser comes with an id of the right shape that the app never gave out, and writes; then
    whoever planted that id looks whether it opens the session."""
    known = visit.browser()
    await known.write("key", "value")
    victim = visit.browser()
    victim.cookies = {name: value[1:] + value[0] for name, value in known.cookies.items()}
    planter = victim.copy()
    await victim.write("secret", "of the victim")
    if await victim.read("secret") is None:
        raise RuntimeError("what the victim wrote is lost")
    if await planter.read("secret") is not None:
        return Finding("no", "whoever planted it is in")
    return Finding("yes")


async def rotation(visit: Visit) -> Finding:
    """A visitor with a basket signs in. Then the cookie from before is tried: does it open the
    signed-in session, or at least the one from before?"""
    browser = visit.browser()
    await browser.write("basket", ["tea"])
    before = browser.copy()
    await browser.act("sign-in", user="alice")
    if await before.read("user") is not None:
        return Finding("no", "the id stays, and is signed in")
    if await browser.read("basket") != ["tea"]:
        return Finding("partly", "a new id, but the data is lost")
    if await before.read("basket") is not None:
        return Finding("partly", "a new one, but the old one opens the old data")
    return Finding("yes")


async def logout(visit: Visit) -> Finding:
    """Someone signs out; then a copy of the cookie from before is tried."""
    browser = await visit.signed_in()
    copy = browser.copy()
    await browser.act("sign-out")
    if await copy.read("user") is not None:
        return Finding("no", "it is still signed in")
    return Finding("yes")


async def resurrection(visit: Visit) -> Finding:
    """A slow request has loaded the session, its user signs out meanwhile, and the slow request
    writes. Then the old cookie is tried, and the one that the slow request's browser has now."""
    browser = await visit.signed_in()
    copy, slow = browser.copy(), browser.copy()
    async with visit.slow(slow, "theme") as request:
        await browser.act("sign-out")
    if await copy.read("user") is not None or await slow.read("user") is not None:
        return Finding("no", "it is signed in again")
    return Finding("yes", f"the slow one is answered {request.result().status}")


async def concurrency(visit: Visit) -> Finding:
    """A slow request has loaded the session; a quick one of the same browser sets another key; the
    slow one sets its own."""
    browser = await visit.signed_in()
    async with visit.slow(browser, "slow"):
        await browser.write("quick", "quick")
    found = [await browser.read("quick"), await browser.read("slow")]
    if found == ["quick", "slow"]:
        return Finding("yes")
    return Finding("no", f"the {'first' if found[0] is None else 'second'} write is lost")


async def nested(visit: Visit) -> Finding:
    """One request stores a list, another appends to it, and a third reads it."""
    browser = visit.browser()
    await browser.write("list", [])
    await browser.act("append")
    if await browser.read("list") == ["new"]:
        return Finding("yes")
    return Finding("no", "the append is lost")


async def stranger(visit: Visit) -> Finding:
    """A visitor without a cookie comes, and the handler looks for a value in the session."""
    with visit.lab.watch.calls() as calls:
        reply = await visit.browser().act("read", key="nothing")
    return _cost(str(calls), bool(calls.names), reply)


async def reading(visit: Visit) -> Finding:
    """A signed-in visitor's request reads one value: does that write to the store, or set the
    cookie again?"""
    browser = await visit.signed_in()
    with visit.lab.watch.calls() as calls:
        reply = await browser.act("read", key="user")
    return _cost(str(calls), calls.is_write, reply)


async def untouched(visit: Visit) -> Finding:
    """A signed-in visitor's request whose handler never looks at the session."""
    browser = await visit.signed_in()
    with visit.lab.watch.calls() as calls:
        reply = await browser.act("untouched")
    finding = _cost(str(calls), calls.is_write, reply)
    if finding.verdict == "yes" and calls.names:
        return Finding("partly", f"{calls}")
    return finding


def _cost(calls: str, is_dear: bool, reply: Reply) -> Finding:
    words = calls if calls != "none" else "no call"
    if "set-cookie" in reply.headers:
        words += ", and Set-Cookie"
    return Finding("no" if is_dear or "set-cookie" in reply.headers else "yes", words)


async def at_rest(visit: Visit) -> Finding:
    """Someone signs in; then all that the store holds is searched for the cookie's value."""
    browser = await visit.signed_in()
    if not visit.lab.candidate.store:
        return Finding("yes", "there is no store")
    dump = visit.lab.watch.dump()
    if any(value.encode() in dump for value in browser.cookies.values()):
        return Finding("no", "clear: a dump opens every session")
    return Finding("yes", "hashed")


async def confidential(visit: Visit) -> Finding:
    """Someone signs in as alice; then the name is looked for in the cookie, decoded from Base64."""
    browser = await visit.signed_in()
    for value in browser.cookies.values():
        text = value.partition(".")[0]
        if b"alice" in base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_"):
            return Finding("no", "the cookie is readable: signed, not encrypted")
    return Finding("yes")


async def revocation(visit: Visit) -> Finding:
    """All that the store holds is removed, as an operator does after a leak; then an old cookie is
    tried."""
    browser = await visit.signed_in()
    visit.lab.watch.clear()
    if await browser.read("user") is not None:
        return Finding("no", "only by another secret key")
    return Finding("yes")


async def elsewhere(visit: Visit) -> Finding:
    """One user signs in on two devices, counts them on one, and signs out the other from there."""
    browser, other = await visit.signed_in(), await visit.signed_in()
    devices = (await browser.try_to("sign-out-elsewhere")).value
    if devices is None:
        return Finding("no", "no API")
    if devices != 2 or await other.read("user") is not None or not await browser.read("user"):
        return Finding("no", f"{devices} devices seen")
    return Finding("yes", "`list_owned()`, `delete_others()`")


async def failing(visit: Visit) -> Finding:
    """A handler changes the session and raises; another changes it and answers 500."""
    raised, returned = await visit.signed_in(), await visit.signed_in()
    await raised.try_to("fail")
    await returned.try_to("error")
    saved = {
        "raises": await raised.read("failed") is not None,
        "answers 500": await returned.read("failed") is not None,
    }
    if not any(saved.values()):
        return Finding("yes")
    words = " or ".join(name for name, is_saved in saved.items() if is_saved)
    return Finding("no" if all(saved.values()) else "partly", f"saved if the handler {words}")


async def unserialisable(visit: Visit) -> Finding:
    """A handler puts a Python object under the key `thing`. Does the error name that key, and is
    the session as it was?"""
    browser = await visit.signed_in()
    reply = await browser.try_to("object")
    if await browser.read("user") != "alice":
        return Finding("no", "the session is lost")
    if reply.status < 500:
        return Finding("no", f"answered {reply.status}, and the value is lost")
    if "thing" in reply.error:
        return Finding("yes")
    return Finding("partly", "an error, but it names no key; the session is intact")


async def size(visit: Visit) -> Finding:
    """10,000 random characters are written and read back, by a browser that refuses cookies of
    more than 4096 bytes, as browsers do (RFC 6265bis)."""
    browser, text = visit.browser(), secrets.token_hex(5000)
    await browser.write("text", text)
    if await browser.read("text") == text:
        return Finding("yes")
    return Finding("no", "lost in silence")


async def cookie(visit: Visit) -> Finding:
    """The attributes of the first Set-Cookie, with the defaults."""
    reply = await visit.browser().write("key", "value")
    [found] = SimpleCookie(reply.headers["set-cookie"]).values()
    have = ["HttpOnly"] * bool(found["httponly"]) + ["Secure"] * bool(found["secure"])
    have += [f"SameSite={found['samesite'].capitalize()}"] * bool(found["samesite"])
    return Finding("yes" if len(have) == 3 else "partly", ", ".join(have))


async def idle(visit: Visit) -> Finding:
    """With a limit of 2 seconds without use: one cookie is used again and again, by requests that
    read, for longer than that, and another one is sent again after a rest of 3.2 seconds."""
    busy, resting = await visit.signed_in(), await visit.signed_in()
    used = await _use(busy, IDLE + 1.2)
    if await resting.read("user") is not None:
        return Finding("no", "the old cookie works")
    if not used:
        return Finding("partly", "counts from the last write: readers are signed out")
    return Finding("yes")


async def absolute(visit: Visit) -> Finding:
    """With limits of 2 seconds without use and 5 in all, as far as both can be had: one cookie is
    used again and again, by requests that write, for 6.2 seconds; another one rests."""
    busy, resting = await visit.signed_in(), await visit.signed_in()
    await _use(busy, IDLE + 1.2, write=True)
    rests = await resting.read("user") is not None
    if await _use(busy, ABSOLUTE - IDLE, write=True):
        return Finding("no", "whoever stays active stays in")
    if rests:
        return Finding("partly", "yes, but in place of an idle one")
    return Finding("yes", "together with an idle one")


async def _use(browser: Browser, seconds: float, *, write: bool = False) -> bool:
    """Use a session for so long; whether it is still signed in."""
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    user = None
    while clock() < end:
        await asyncio.sleep(PAUSE)
        user = await browser.read("user")
        if write and user is not None:
            await browser.write("now", clock())
    return user is not None


async def store_down(visit: Visit) -> Finding:
    """The store's server is stopped; a signed-in visitor's request reads the session, and another
    one doesn't touch it."""
    if not visit.lab.candidate.store:
        return Finding("yes", "there is no store")
    browser = await visit.signed_in()
    cookies = dict(browser.cookies)
    visit.lab.stop_store()
    reply = await asyncio.wait_for(browser.try_to("read", key="user"), PATIENCE)
    rest = await asyncio.wait_for(browser.copy().try_to("untouched"), PATIENCE)
    others = "the rest works" if rest.status == 200 else "the rest fails, too"
    if reply.status == 200:
        lost = ", and the cookie is gone" if browser.cookies != cookies else ""
        return Finding("no", f"silently signed out{lost}; {others}")
    if reply.status == 503 and "retry-after" in reply.headers:
        return Finding("yes", f"503 with Retry-After; {others}")
    return Finding("partly", f"{reply.status}; {others}")


@dataclass(frozen=True)
class Promise:
    """A row of the table. ``idle`` and ``absolute`` limits are what the app is set up with."""

    text: str
    scenario: Callable[[Visit], Awaitable[Finding]]
    idle: int = 0
    absolute: int = 0


PROMISES = [
    Promise("An id that a client invented is not adopted", fixation),
    Promise("The id changes at sign-in, and the old one is dead", rotation),
    Promise("After sign-out the old cookie is dead", logout),
    Promise("... and no slow request brings it back to life", resurrection),
    Promise("Two requests that change different keys keep both changes", concurrency),
    Promise("Nested changes are kept without a flag", nested),
    Promise("A visitor without a cookie costs the store nothing, and gets none", stranger),
    Promise("A request that reads writes nothing, and sets no cookie", reading),
    Promise("A request that doesn't touch its session costs the store nothing", untouched),
    Promise("A dump of the store opens no session", at_rest),
    Promise("The client can't read the data", confidential),
    Promise("A stolen cookie can be revoked", revocation),
    Promise("A user's sessions can be listed, and ended from another device", elsewhere),
    Promise("A handler that fails saves nothing", failing),
    Promise(
        "Data that can't be saved: an error names the key, the session is intact", unserialisable
    ),
    Promise("More than 4 KB", size),
    Promise("Cookie: HttpOnly, Secure and SameSite by default", cookie),
    Promise("An idle limit, enforced by the server", idle, IDLE),
    Promise("An absolute limit, enforced by the server", absolute, IDLE, ABSOLUTE),
    Promise("Store down: the visitor is asked to come back", store_down),
]


async def examine(candidate: Candidate, folder: Path, wanted: list[Promise]) -> dict[str, Finding]:
    """Put a candidate through these promises; the findings by the texts of the promises."""
    lab = Lab(candidate, folder)
    found = {}
    try:
        for promise in wanted:
            async with lab.open(Setup(promise.idle, promise.absolute)) as visit:
                found[promise.text] = await promise.scenario(visit)
    finally:
        lab.stop_store()
    return found

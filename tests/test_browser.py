"""The generated app as a person meets it: Chromium, the project's own command, every store."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    ViewportSize,
    expect,
)
from pytest_cookies.plugin import Cookies
from serversessions.testing import servers

from .browser import NoChromiumError, open_chromium
from .conftest import KINDS, do_without, serving

HOSTILE_TEXTS = [
    "<script>document.title = 'owned'</script>",
    '"><img src=x onerror="document.title = \'owned\'">',
    "</title></label></h1><h1>Ada",
    "{{ 7 * 7 }}{% raw %}${7 * 7}",
    "\u202egnp.exe \u2066ada",
    "&lt;b&gt; &amp; 'quotes' \"too\"",
]
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)
SMALL: ViewportSize = {"width": 320, "height": 568}  # the narrowest phone: WCAG 2.2, 1.4.10
HERE = re.compile("Where you.re signed in")
FORMS = ["/name", "/sign-in", "/sign-out", "/devices/sign-out", "/devices/sign-out-others"]
ELSEWHERE = "http://elsewhere.test/"  # the tests answer for it themselves

# What no store has a part in.
on_one_store = pytest.mark.parametrize("project", ["memory"], indirect=True)

USERS = itertools.count()
OpenBrowser = Callable[..., BrowserContext]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with ExitStack() as stack:
        try:
            browser = stack.enter_context(open_chromium())
        except NoChromiumError as missing:
            do_without(str(missing))
        yield browser


@pytest.fixture(scope="module", params=KINDS)
def project(request: pytest.FixtureRequest, cookies_session: Cookies) -> Iterator[Path]:
    """A project for each kind of store, with the server that this needs."""
    answers = dict(KINDS[request.param])
    with ExitStack() as stack:
        if request.param == "cache":
            answers["_cache_uri"] = stack.enter_context(servers.valkey())
        elif request.param == "postgresql":
            answers["_database_url"] = stack.enter_context(servers.postgresql())
        result = cookies_session.bake(extra_context=answers)
        assert result.exception is None, result.exception
        path: Path = result.project_path
        yield path


@pytest.fixture(scope="module")
def app(project: Path) -> Iterator[str]:
    """The URL of the app as it was generated."""
    with serving(project) as client:
        yield str(client.base_url)


@contextmanager
def configured(project: Path, *lines: str) -> Iterator[str]:
    """The URL of the app with these lines in [middlewares.session]."""
    section = "[middlewares.session]\n"
    settings = (project / "config" / "dev.toml").read_text()
    changed = settings.replace(section, section + "".join(f"{line}\n" for line in lines))
    (project / "config" / "other.toml").write_text(changed)
    with serving(project, "--env", "other") as client:
        yield str(client.base_url)


@pytest.fixture
def open_browser(chromium: Browser) -> Iterator[OpenBrowser]:
    """Open another browser, with cookies of its own. Each complaint of one is an error."""
    complaints: list[str] = []

    def hear(said: ConsoleMessage) -> None:
        if said.type in ("error", "warning"):
            complaints.append(said.text)

    with ExitStack() as stack:

        def open_browser(app: str, **options: Any) -> BrowserContext:
            context = chromium.new_context(base_url=app, **options)
            stack.callback(context.close)
            context.set_default_timeout(10_000)
            context.on("console", hear)
            context.on("weberror", lambda raised: complaints.append(str(raised.error)))
            context.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
            return context

        yield open_browser
    assert complaints == []


@pytest.fixture
def ada() -> str:
    """A user who is signed in nowhere yet."""
    return f"ada-{next(USERS)}@example.org"


@pytest.fixture
def page(app: str, open_browser: OpenBrowser) -> Page:
    """The home page, in a browser that was never there."""
    return visit(open_browser(app))


def visit(browser: BrowserContext) -> Page:
    """The home page, in a new tab."""
    page = browser.new_page()
    page.goto("/")
    return page


def say_name(page: Page, name: str) -> None:
    page.get_by_role("textbox", name="What is your name?").fill(name)
    page.get_by_role("button", name="Remember").click()
    expect(greeting(page)).to_have_text(f"Hello, {name}")


def sign_in(page: Page, user: str) -> None:
    page.get_by_role("textbox", name="User name").fill(user)
    page.get_by_role("button", name="Sign in").click()
    expect(account(page)).to_have_text(f"Signed in as {user}")


def sign_out(page: Page) -> None:
    page.get_by_role("button", name="Sign out").click()
    expect(account(page)).to_have_text("Sign in")


def see_devices(page: Page) -> None:
    page.goto("/")
    page.get_by_role("link", name=HERE).click()
    expect(greeting(page)).to_have_text(HERE)


def others(page: Page) -> Locator:
    """The other devices that the page lists."""
    return page.get_by_role("listitem")


def greeting(page: Page) -> Locator:
    return page.get_by_role("heading", level=1)


def account(page: Page) -> Locator:
    return page.get_by_role("heading", name="Sign")


def go_away(page: Page) -> None:
    """Leave the app, by a way back."""
    page.goto("about:blank")


def go_back(page: Page) -> None:
    """Press Back. Playwright's ``go_back`` awaits a request; a page that was kept makes none."""
    with page.expect_event("framenavigated"):
        page.evaluate("setTimeout(() => history.back())")


def is_unknown(page: Page) -> None:
    """The page knows nothing of whoever looks at it."""
    expect(greeting(page)).to_have_text("What is your name?")
    expect(account(page)).to_have_text("Sign in")


def test_the_cookie_is_what_the_first_environment_says(page: Page) -> None:
    assert page.context.cookies() == []
    say_name(page, "Ada")
    (cookie,) = page.context.cookies()
    session_id = cookie.pop("value")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", session_id)
    assert cookie == {
        "name": "my_app",
        "domain": "127.0.0.1",
        "path": "/",
        "expires": -1,  # until the browser closes
        "httpOnly": True,
        "secure": False,
        "sameSite": "Lax",
    }
    assert page.evaluate("document.cookie") == ""


@on_one_store
def test_the_cookie_follows_the_configuration(project: Path, open_browser: OpenBrowser) -> None:
    lines = ('name = "visit"', 'expiry = "2h"', 'same_site = "lax"', "http_only = false")
    with configured(project, *lines) as app:
        page = visit(open_browser(app))
        say_name(page, "Ada")
        (cookie,) = page.context.cookies()
        expected = {"name": "visit", "httpOnly": False, "sameSite": "Lax", "secure": False}
        assert cookie.items() >= expected.items()
        assert cookie["expires"] == pytest.approx(time.time() + 2 * 60 * 60, abs=60)
        assert page.evaluate("document.cookie") == f"visit={cookie['value']}"


def test_back_after_signing_out_shows_nothing_private(page: Page, ada: str) -> None:
    say_name(page, "Ada")
    sign_in(page, ada)
    go_away(page)
    go_back(page)
    expect(account(page)).to_have_text(f"Signed in as {ada}")
    sign_out(page)
    assert page.context.cookies() == []
    assert page.evaluate("navigation.canGoBack")
    while page.evaluate("navigation.canGoBack"):
        go_back(page)
        is_unknown(page)
        assert "ada" not in page.content().lower()


@on_one_store
def test_back_after_signing_out_in_another_tab_shows_nothing_private(page: Page, ada: str) -> None:
    sign_in(page, ada)
    go_away(page)
    sign_out(visit(page.context))
    go_back(page)
    is_unknown(page)


def test_a_second_tab_shares_the_session(page: Page, ada: str) -> None:
    say_name(page, "Ada")
    second = visit(page.context)
    expect(greeting(second)).to_have_text("Hello, Ada")
    sign_in(second, ada)
    page.reload()
    expect(account(page)).to_have_text(f"Signed in as {ada}")
    sign_out(page)
    second.reload()
    is_unknown(second)


@on_one_store
def test_two_browsers_are_two_sessions(app: str, open_browser: OpenBrowser) -> None:
    hers, his = visit(open_browser(app)), visit(open_browser(app))
    sign_in(hers, "ada")
    his.reload()
    is_unknown(his)
    sign_in(his, "bob")
    sign_out(hers)
    his.reload()
    expect(account(his)).to_have_text("Signed in as bob")


def test_one_browser_signs_another_out(app: str, open_browser: OpenBrowser, ada: str) -> None:
    laptop = visit(open_browser(app, user_agent=FIREFOX))
    phone = visit(open_browser(app, user_agent=IPHONE))
    stranger = visit(open_browser(app))
    sign_in(laptop, ada)
    sign_in(phone, ada)
    sign_in(stranger, "bob")

    see_devices(laptop)
    expect(laptop.get_by_role("region", name="This device")).to_contain_text("Firefox on Linux")
    expect(others(laptop)).to_have_count(1)
    expect(others(laptop)).to_contain_text("Safari on iPhone")
    see_devices(phone)
    expect(others(phone)).to_contain_text("Firefox on Linux")

    others(laptop).get_by_role("button", name="Sign out Safari on iPhone").click()
    expect(laptop.get_by_role("status")).to_have_text("Signed out of 1 other device.")
    expect(others(laptop)).to_have_count(0)
    phone.reload()
    is_unknown(phone)
    stranger.reload()
    expect(account(stranger)).to_have_text("Signed in as bob")


def test_one_browser_signs_all_others_out(app: str, open_browser: OpenBrowser, ada: str) -> None:
    here, *elsewhere = [visit(open_browser(app)) for _ in range(3)]
    for page in (here, *elsewhere):
        sign_in(page, ada)
    see_devices(here)
    expect(others(here)).to_have_count(2)
    here.get_by_role("button", name="Sign out everywhere else").click()
    expect(others(here)).to_have_count(0)
    for page in elsewhere:
        page.reload()
        is_unknown(page)
    here.goto("/")
    expect(account(here)).to_have_text(f"Signed in as {ada}")


@on_one_store
def test_signing_in_leaves_the_planted_cookie_worthless(
    app: str, page: Page, open_browser: OpenBrowser
) -> None:
    say_name(page, "Eve")
    victim = open_browser(app, storage_state=page.context.storage_state())
    sign_in(visit(victim), "ada")
    page.reload()
    is_unknown(page)


@on_one_store
def test_an_id_that_the_server_did_not_give_out_is_not_adopted(page: Page, app: str) -> None:
    invented = "x" * 43
    page.context.add_cookies([{"name": "my_app", "value": invented, "url": app}])
    page.reload()
    is_unknown(page)
    say_name(page, "Ada")
    (cookie,) = page.context.cookies()
    assert cookie["value"] != invented


def test_an_idle_session_ends_in_the_browser_and_on_the_server(
    project: Path, open_browser: OpenBrowser
) -> None:
    with configured(project, 'expiry = "4s"') as app:
        page = visit(open_browser(app))
        say_name(page, "Ada")
        (cookie,) = page.context.cookies()
        page.wait_for_timeout(4_100)
        assert page.context.cookies() == []
        page.context.add_cookies([{"name": "my_app", "value": cookie["value"], "url": app}])
        page.reload()
        is_unknown(page)


@on_one_store
@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_text_is_shown_as_text(app: str, open_browser: OpenBrowser, text: str) -> None:
    # A header holds Latin-1: others come as what Python makes of their UTF-8.
    elsewhere = open_browser(app, user_agent=text.encode().decode("latin-1"))
    elsewhere.request.post("/sign-in", form={"name": text})
    page = visit(open_browser(app, viewport=SMALL))
    title = page.title()
    say_name(page, text)
    expect(page.get_by_role("textbox", name="Change your name")).to_have_value(text)
    sign_in(page, text)
    assert page.title() == title
    fits(page)
    see_devices(page)
    expect(others(page)).to_have_count(1)
    fits(page)
    assert page.locator("main :is(script, img, b)").count() == 0


@on_one_store
def test_the_keyboard_is_enough(app: str, page: Page, open_browser: OpenBrowser, ada: str) -> None:
    def press(*keys: str) -> None:
        for key in keys:
            page.keyboard.press(key)

    sign_in(visit(open_browser(app)), ada)
    press("Tab")
    expect(page.get_by_role("link", name="My App")).to_be_focused()
    press("Tab")
    expect(page.get_by_role("textbox", name="What is your name?")).to_be_focused()
    page.keyboard.type("Ada")
    press("Enter")
    expect(greeting(page)).to_have_text("Hello, Ada")
    press("Tab", "Tab", "Tab", "Tab")
    expect(page.get_by_role("textbox", name="User name")).to_be_focused()
    page.keyboard.type(ada)
    press("Tab")
    expect(page.get_by_role("button", name="Sign in")).to_be_focused()
    press("Space")
    expect(account(page)).to_have_text(f"Signed in as {ada}")
    press("Tab", "Tab", "Tab", "Tab")
    expect(page.get_by_role("button", name="Sign out")).to_be_focused()
    press("Tab", "Enter")
    expect(others(page)).to_have_count(1)
    press("Tab", "Tab")
    expect(page.get_by_role("button", name="Sign out here")).to_be_focused()
    press("Tab")
    expect(page.get_by_role("button", name="Sign out everywhere else")).to_be_focused()
    press("Tab")
    expect(others(page).get_by_role("button")).to_be_focused()
    press("Enter")
    expect(others(page)).to_have_count(0)


@on_one_store
def test_another_site_neither_sees_nor_changes_the_session(app: str, chromium: Browser) -> None:
    forms = "".join(
        f'<form action="{app}{path}" method="post"><button name="name">{path}</button></form>'
        for path in FORMS
    )
    elsewhere = f'<!doctype html><a href="{app}">link</a>{forms}'
    with chromium.new_context(base_url=app) as browser:
        page = visit(browser)
        sign_in(page, "ada")
        page.route(ELSEWHERE, lambda route: route.fulfill(body=elsewhere, content_type="text/html"))
        page.goto(ELSEWHERE)
        page.get_by_role("link").click()
        expect(account(page)).to_have_text("Signed in as ada")  # as same_site = "lax" has it
        for path in FORMS:
            page.goto(ELSEWHERE)
            with page.expect_navigation(url=f"{app}{path}") as navigation:
                page.get_by_role("button", name=path, exact=True).click()
            assert navigation.value.status == 403
        page.goto(app)
        expect(account(page)).to_have_text("Signed in as ada")


@on_one_store
def test_nothing_is_cut_off_on_a_small_phone(app: str, open_browser: OpenBrowser) -> None:
    page = visit(open_browser(app, viewport=SMALL))
    fits(page)
    say_name(page, "A" * 80)
    user = "B" * 80
    for _ in range(2):
        open_browser(app, user_agent="x" * 500).request.post("/sign-in", form={"name": user})
    sign_in(page, user)
    fits(page)
    see_devices(page)
    fits(page)


def fits(page: Page) -> None:
    """Nothing goes beyond the sides, and there is nothing to scroll to there."""
    width = SMALL["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for control in page.locator("a, button, input, dd, h1, h2, h3, p, li").all():
        if box := control.bounding_box():
            assert box["x"] >= 0, control
            assert box["x"] + box["width"] <= width, control

"""The pages of a generated app, as a desktop and a phone show them."""

from __future__ import annotations

import base64
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Browser, Page

from lab.projects import bake
from tests.browser import open_chromium
from tests.conftest import serving

ANSWERS = {"project_name": "My Shop", "package_name": "my_app", "session_store": "file"}
USER = "ada@example.org"
DESKTOP = {
    "viewport": {"width": 1100, "height": 720},
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0",
}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "color_scheme": "dark",
    "user_agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
}
OTHER = {
    "user_agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36"
    " (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36",
}
PATHS = ["/", "/devices"]
FRAME = """\
<!doctype html>
<style>
body { display: grid; grid-template-columns: auto auto; gap: 40px; width: max-content;
  margin: 0; padding: 40px; background: #e3e8e5 }
img { display: block; height: 480px; border: 1px solid #aab4af; border-radius: 10px }
.phone { border-radius: 22px }
</style>
"""


def draw(template: Path) -> bytes:
    """The pages as PNG: a row for each, a desktop's and a phone's width beside each other."""
    with TemporaryDirectory() as folder, open_chromium() as chromium:
        project = bake(Path(folder), template, **ANSWERS)
        with serving(project) as client:
            app = str(client.base_url)
            _, *devices = [_sign_in(chromium, app, device) for device in (OTHER, DESKTOP, PHONE)]
            images = [_shoot(page, path) for path in PATHS for page in devices]
        return _compose(chromium, images)


def _sign_in(chromium: Browser, app: str, device: dict[str, Any]) -> Page:
    page = chromium.new_page(base_url=app, device_scale_factor=1.5, **device)
    page.goto("/")
    page.get_by_role("textbox", name="What is your name?").fill("Ada")
    page.get_by_role("button", name="Remember").click()
    page.get_by_role("textbox", name="User name").fill(USER)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Signed in as").wait_for()
    return page


def _shoot(page: Page, path: str) -> bytes:
    page.goto(path)
    return page.screenshot()


def _compose(chromium: Browser, images: list[bytes]) -> bytes:
    page = chromium.new_page(device_scale_factor=1.25)
    tags = [
        f'<img class="{kind}" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
        for kind, image in zip(["desktop", "phone"] * len(PATHS), images, strict=True)
    ]
    page.set_content(FRAME + "".join(tags))
    return page.locator("body").screenshot()

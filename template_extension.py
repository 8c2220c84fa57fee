"""What the template needs of Jinja: filters that carry any answer into any file, guards, facts.

It runs inside the user's cookiecutter: Python 3.10, Jinja2, cookiecutter, the standard library.
"""

from __future__ import annotations

import html
import json
import re
import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension

TEMPLATE = Path(__file__).parent
HOOKS = TEMPLATE / "hooks"
# Where each store is: the option of the project's ``config new``, and the question here.
PLACES = {"path": "_file_path", "url": "_database_url", "uri": "_cache_uri"}


class TemplateExtension(Extension):
    """Adds the filters, the guards and the facts to cookiecutter's Jinja."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        sys.modules.pop(__name__, None)  # `cruft update` runs two versions of it in one process
        environment.filters.update(html=to_html, markdown=to_markdown, toml=to_toml)
        environment.globals.update(
            questions=questions,
            refuse_unusable=refuse_unusable,
            server_of=server_of,
            template_source=template_source,
        )

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Keep answers data: cookiecutter would run one that is given on the command line as Jinja.

        What it renders without a name and before it has a loader is its folder's name, a hook, a
        text of cookiecutter.json, or such an answer.
        """
        is_answer = name is None and self.environment.loader is None and source not in _own_texts()
        return _literal(source) if is_answer else source


def refuse_unusable(answers: dict[str, Any]) -> str:
    """Run the hook's checks as soon as all is answered.

    Later is too late: cookiecutter has then kept the answers for a replay, passwords included, and
    made a folder, wherever the slug pointed.
    """
    hook = runpy.run_path(str(HOOKS / "pre_gen_project.py"))
    if problems := hook["find_problems"](answers):
        print(hook["describe"](problems), file=sys.stderr)
        raise FailedHookException("Nothing was generated.")
    return ""


def server_of(answers: dict[str, Any]) -> str:
    """The server that a project's store needs, if any."""
    store = answers["session_store"]
    if store == "database" and answers["_database_url"].startswith("postgresql"):
        return "postgresql"
    return "valkey" if store == "cache" else ""


def template_source(name: str) -> str:
    """A text of ``templates/`` as it is, for the project to render itself."""
    return (TEMPLATE / "templates" / name).read_text(encoding="utf-8").rstrip("\n")


def questions(answers: dict[str, Any]) -> str:
    """What ``config new`` asks, as JSON: the labels of cookiecutter.json, with these answers."""
    prompts = _settings()["__prompts__"]
    store = dict(prompts["session_store"])
    label = store.pop("__prompt__")
    asked = {"store": {"label": label, "default": answers["session_store"], "choices": store}}
    for name, question in PLACES.items():
        asked[name] = {"label": prompts[question], "default": answers[question]}
    return json.dumps(asked, ensure_ascii=False, indent=2)


def to_toml(text: str) -> str:
    """A TOML basic string. (Cookiecutter's own ``tojson`` breaks on emoji and escapes quotes.)"""
    return json.dumps(text, ensure_ascii=False)


def to_html(text: str) -> str:
    """HTML in which a run-time Jinja sees no delimiter either."""
    return html.escape(text).replace("{", "&#123;")


def to_markdown(text: str) -> str:
    """Markdown that shows the text as it is, also at the beginning of a line."""
    escaped = re.sub(r"([\\`*_\[\]<>#&|~!$])", r"\\\1", text)
    return re.sub(r"^([-+=]|\d+(?=[.)]))", lambda m: _escape_marker(m[0]), escaped)


def _escape_marker(marker: str) -> str:
    return f"{marker}\\" if marker.isdigit() else f"\\{marker}"


@cache
def _settings() -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
    return settings


@cache
def _own_texts() -> frozenset[str]:
    choices = [value if isinstance(value, list) else [value] for value in _settings().values()]
    texts = {text for texts in choices for text in texts if isinstance(text, str)}
    hooks = {hook.read_text(encoding="utf-8") for hook in HOOKS.glob("*.py")}
    folders = {folder.name for folder in TEMPLATE.glob("*{{*}}*")}
    return frozenset(texts | hooks | folders)


def _literal(text: str) -> str:
    """A Jinja expression whose value is the text."""
    escaped = text.encode("unicode_escape").decode().replace("'", "\\'")
    return f"{{{{ '{escaped}' }}}}"

"""What the template needs of Jinja: filters that carry any answer into any file, guards, facts.

It runs inside the user's cookiecutter: Python 3.10, Jinja2, cookiecutter, the standard library.
"""

from __future__ import annotations

import html
import json
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment, Template
from jinja2.ext import Extension
from jinja2.runtime import Context

import template_answers

TEMPLATE = Path(__file__).parent
PROJECT = next(TEMPLATE.glob("*{{*}}*")).name
# Where each store is: the option of the project's ``config new``, and the question here.
PLACES = {"path": "_file_path", "url": "_database_url", "uri": "_cache_uri"}
# The name of an answer, perhaps through a filter; and where Jinja would begin to read.
NAME = re.compile(r"\{\{ *cookiecutter\.(\w+) *(?:\| *(\w+) *)?\}\}")
JINJA = re.compile(r"\{[{%#]")


class TemplateExtension(Extension):
    """Adds the filters, the guards and the facts to cookiecutter's Jinja."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        for module in (__name__, template_answers.__name__):
            sys.modules.pop(module, None)  # `cruft update` runs two versions in one process
        environment.filters.update(html=to_html, markdown=to_markdown, toml=to_toml)
        environment.globals.update(
            project_folder=project_folder,
            questions=questions,
            refuse_unusable=refuse_unusable,
            say_what_next=say_what_next,
            server_of=server_of,
            template_source=template_source,
        )
        self._compile = environment.compile
        vars(environment).update(compile=self.compile, template_class=NamesTemplate)

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Keep answers data: cookiecutter would run one that is given on the command line as Jinja.

        What it renders without a name and before it has a loader is its folder's name, a text of
        cookiecutter.json, or such an answer.
        """
        if name is not None or self.environment.loader is not None:
            return source
        if source == PROJECT:
            return "{{ project_folder(cookiecutter) }}"
        return source if source in _own_texts() else _literal(source)

    def compile(
        self, source: Any, name: str | None = None, filename: str | None = None, **options: Any
    ) -> Any:
        """What Jinja compiles a text to; but a text that only names answers, as it is.

        Most files are such texts, and all folders' names. To have Jinja translate each to Python
        takes longer than all else that cookiecutter does.
        """
        if isinstance(source, str) and not options:
            text = self.environment.preprocess(source, name, filename)
            if not JINJA.search(NAME.sub("{", text)):  # "{" since "{{{" begins no name
                return Names(text)
        return self._compile(source, name, filename, **options)


class Names(str):
    """A text that only names answers."""

    def render(self, context: Context) -> Iterator[str]:
        """The text with the answers, as Jinja finds and writes them."""
        environment, answers = context.environment, context.resolve("cookiecutter")

        def write(name: re.Match[str]) -> str:
            answer = environment.getattr(answers, name[1])
            if name[2]:
                answer = environment.call_filter(name[2], answer, context=context)
            return str(answer)

        yield NAME.sub(write, self)


class NamesTemplate(Template):
    """A template that is such a text; any other is Jinja's own."""

    @classmethod
    def from_code(cls, environment: Environment, code: Any, *rest: Any) -> Template:
        if not isinstance(code, Names):
            return Template.from_code(environment, code, *rest)
        module: dict[str, Any] = {"name": None, "__file__": None, "blocks": {}, "debug_info": ""}
        return cls.from_module_dict(environment, module | {"root": code.render}, rest[0])

    def new_context(self, variables: Any = None, *_: Any) -> Context:
        """What is given, without a copy of all globals: none is an answer."""
        return Context(self.environment, variables, None, {})


def refuse_unusable(answers: dict[str, Any]) -> str:
    """Check the answers as soon as all is answered.

    Later is too late: cookiecutter has then kept the answers for a replay, passwords included.
    """
    if problems := template_answers.find_problems(answers):
        print(template_answers.describe(problems), file=sys.stderr)
        raise FailedHookException("Nothing was generated.")
    return ""


def project_folder(answers: dict[str, Any]) -> str:
    """The folder's name, which cookiecutter renders before it makes anything.

    So it is where the answers of a replay are checked, of which none is asked for.
    """
    if "__checked" not in answers:  # still asking: it is an answer that looks like the folder
        return PROJECT
    refuse_unusable(answers)
    return str(answers["project_slug"])


def say_what_next(answers: dict[str, Any]) -> str:
    """Tell a person what to do; the name of a file, which is none.

    The file is the last that cookiecutter comes to, so all others are there; having no name, it
    isn't made. A hook would say the same, from a Python of its own: a quarter of a bake's time.
    """
    environment, store = answers["environment"], answers["session_store"]
    folder = Path(answers.get("_output_dir", ""), answers["project_slug"])  # cruft tells only this
    steps = [f"cd {shlex.quote(str(folder))}"]
    if answers["__server"]:
        steps.append("docker compose up -d  # the server that holds the sessions")
    if len(list((folder / "config").glob("*.toml"))) > 1:  # the project was there already
        command = f".venv/bin/{answers['project_slug']}"
        steps += [
            "make test  # installs what the store needs",
            f"{command} config check {environment}",
            f"{command} run --env {environment}",
        ]
    else:
        steps += ["make run   # http://127.0.0.1:8000", "make test"]
    print(f"\nSessions live in the {store} store: config/{environment}.toml says so.\n")
    print("\n".join(f"  {step}" for step in steps) + "\n")
    return ""


def server_of(answers: dict[str, Any]) -> str:
    """The server that a project's store needs, if any."""
    store = answers["session_store"]
    if store == "database" and str(answers["_database_url"]).startswith("postgresql"):
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
    return frozenset(text for texts in choices for text in texts if isinstance(text, str))


def _literal(text: str) -> str:
    """A Jinja expression whose value is the text."""
    escaped = text.encode("unicode_escape").decode().replace("'", "\\'")
    return f"{{{{ '{escaped}' }}}}"

"""Every answer is hostile until proven otherwise: it arrives intact, or is refused in words."""

from __future__ import annotations

import ast
import html
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from cookiecutter.utils import create_env_with_context
from jinja2 import Environment, FileSystemLoader, TemplateSyntaxError, UndefinedError
from markdown_it import MarkdownIt
from pytest_cookies.plugin import Cookies

import template_answers

from .conftest import SETTINGS, TEMPLATE, Bake, read, run

PROJECT = TEMPLATE / "{{cookiecutter.project_slug}}"
CARRIED = [
    *(
        "it's",
        'a "quoted" one',
        "back\\slash",
        "ünïcödé 日本",
        "emoji 😀 👩\u200d👧",
        "<b>&amp;</b>",
    ),
    *("{{ 7*7 }}", "{{ x", "}} {% raw %}", "{# no #}", "{% endraw %}", "{{ cookiecutter.none }}"),
    *("${HOME} $(id) `id`", "%s %(x)s", "*bold* _it_ [a](b) # h", "a ]] > b", "~~no~~ | a | b"),
    *("- dash", "1. list", "+ 1", "> q", "=== ---", "'''", '"""', "\\N{BULLET} \\u0041 \\"),
    *("x" * 200, "__import__('os')", "{{ cookiecutter.project_slug }}"),
]


@pytest.mark.parametrize("text", CARRIED)
def test_a_name_arrives_intact_everywhere(bake: Bake, text: str) -> None:
    project = bake(
        project_name=text, description=text, author_name=text, project_slug="a", package_name="a"
    )
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert metadata["description"] == text
    assert metadata["authors"] == [{"name": text}]

    page = Environment(autoescape=True).from_string(
        (project / "src/a/templates/base.html").read_text()
    )
    shown = page.render()
    assert html.unescape(re.findall("<title>(.*?)</title>", shown, re.DOTALL)[0]).strip() == text
    assert html.escape(text).replace("{", "&#123;") in shown

    readme = (project / "README.md").read_text()
    heading, paragraph = [
        "".join(child.content for child in token.children or [] if child.type == "text")
        for token in MarkdownIt("commonmark").parse(readme)
        if token.type == "inline"
    ][:2]
    assert (heading, paragraph) == (text, text)


@pytest.mark.parametrize("text", CARRIED[:12])
def test_the_environments_text_carries_any_path(bake: Bake, text: str) -> None:
    project = bake(session_store="file", _file_path=text)
    config = tomllib.loads((project / "config/dev.toml").read_text())
    assert config["middlewares"]["session"]["store"] == {"type": "file", "path": text}


REFUSED = {
    "project_name": [
        "",
        " ",
        "a\nb",
        "a\tb",
        "a\0b",
        "\x1b[31m",
        " a",
        "a ",
        "x" * 201,
        "a\u2028b",
    ],
    "project_slug": [
        *("", "../x", "/etc", "a/b", "a b", "-a", "a-", "A", "ü", "a_b", "1a", ".", "a" * 41),
        *("a" * 300, "pytest", "python-multipart", "{{ 1 }}", 'a"', "a\nb", "a--b"),
    ],
    "package_name": [
        *("", "class", "import", "json", "sys", "asyncio", "starlette", "redis", "tests", "config"),
        *("a-b", "a.b", "A", "_a", "a__b", "1a", "../x", "a b", "ünï", "a" * 41, "None"),
    ],
    "description": ["", "two\nlines", "a\rb"],
    "author_name": ["", "a\nb"],
    "environment": ["", "../x", "a/b", "/x", ".", "-x", "a b", "a.b", "x" * 65, "ü", "{{ 1 }}"],
    "_file_path": ["", "a\nb", "a\0b"],
    "_database_url": ["", "mysql://h/x", "sqlite://", "x.db", "postgresql:///", "sqlite:///a b"],
    "_cache_uri": [
        *("", "http://h", "localhost:6379", "redis:", "redis://", "redis://h:port/0"),
        "redis+sentinel://h:1,g:x/app",
    ],
}


@pytest.mark.parametrize(
    ("question", "answer"),
    [(question, answer) for question, answers in REFUSED.items() for answer in answers],
)
def test_a_wrong_answer_is_refused_and_leaves_nothing(
    cookies: Cookies, tmp_path: Path, capsys: pytest.CaptureFixture[str], question: str, answer: str
) -> None:
    answers = {"project_slug": "fine", "package_name": "fine"} | {question: answer}
    before = sorted(tmp_path.rglob("*"))
    result = cookies.bake(extra_context=answers)
    assert isinstance(result.exception, FailedHookException)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "One answer can't be used:"
    assert said[1].startswith(f"  {question}: ")
    assert len(said) == 3
    left = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert [path for path in left if path.name not in ("cookies", "bake00")] == []


def test_all_wrong_answers_are_listed_at_once(
    cookies: Cookies, capsys: pytest.CaptureFixture[str]
) -> None:
    cookies.bake(extra_context={question: answers[1] for question, answers in REFUSED.items()})
    said = capsys.readouterr().err
    assert f"{len(REFUSED)} answers can't be used:" in said
    assert all(f"\n  {question}: " in said for question in REFUSED)


@pytest.mark.parametrize(
    ("question", "url"),
    [
        ("_cache_uri", "redis://:s3cret@localhost/0"),
        ("_cache_uri", "redis://user:s3cret@localhost/0"),
        ("_cache_uri", "redis://localhost/0?password=s3cret"),
        ("_cache_uri", "redis+cluster://user:s3cret@h:1,g:2"),
        ("_cache_uri", "redis+sentinel://h:1,g:2/app?sentinel_password=s3cret"),
        ("_database_url", "postgresql://user:s3cret@localhost/x"),
        ("_database_url", "postgresql://user:2024#s3cret@localhost/x"),
        ("_database_url", "postgresql://me@corp:s3cret@localhost/x"),
        ("_database_url", "postgresql://localhost/x?pwd=s3cret"),
        ("_cache_uri", "redis://:/s3cret@localhost/0"),
        ("_cache_uri", "redis://localhost/0?token=s3cret"),
    ],
)
def test_a_password_is_refused_and_kept_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: str, url: str
) -> None:
    """Not in the project, the replay file, a rendered hook, or the message."""
    for variable in ("HOME", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input", "-o", "out"]
    done = subprocess.run(
        [*command, f"{question}={url}", "session_store=cache"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Leave the password out" in done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"s3cret" in path.read_bytes() for path in kept)


@pytest.mark.parametrize(
    ("question", "answer"), [("package_name", "class"), ("project_slug", "../x")]
)
def test_a_replay_is_checked_before_anything_is_made(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    question: str,
    answer: str,
) -> None:
    """It asks nothing, and so passes by the check of what was answered."""
    with pytest.raises(FailedHookException):
        replay(tmp_path, {question: answer})
    said = capfd.readouterr().err.splitlines()
    assert said[:2] == ["One answer can't be used:", f'  {question}: "{answer}"']
    assert len(said) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"replay.json", "settings.yaml", "kept"}


def test_a_wrong_replay_leaves_the_project_that_is_there(bake: Bake, tmp_path: Path) -> None:
    project = bake()
    before = read(project)
    answers = {"project_slug": project.name, "environment": "../x"}
    again = {"overwrite_if_exists": True, "skip_if_file_exists": True}
    with pytest.raises(FailedHookException):
        replay(tmp_path, answers, output_dir=project.parent, **again)
    assert read(project) == before


def test_a_right_replay_makes_the_same_project(bake: Bake, tmp_path: Path) -> None:
    texts = {"project_name": "{{ 7*7 }}", "description": "{{cookiecutter.project_slug}}"}
    again = replay(tmp_path, texts | {"project_slug": "slug", "package_name": "slug"})
    project = bake(**texts, project_slug="slug", package_name="slug", session_store="memory")
    assert read(again) == read(project)


def replay(
    folder: Path, answers: dict[str, str], output_dir: Path | None = None, **options: bool
) -> Path:
    """Generate a project from a replay file with these answers; its folder."""
    kept = SETTINGS | {"project_name": "x", "project_slug": "slug", "package_name": "slug"}
    kept |= {"session_store": "memory", "__server": "", "__checked": ""} | answers
    (folder / "replay.json").write_text(json.dumps({"cookiecutter": kept}))
    (folder / "settings.yaml").write_text(json.dumps({"replay_dir": str(folder / "kept")}))
    made: str = cookiecutter(
        str(TEMPLATE),
        config_file=str(folder / "settings.yaml"),
        replay=folder / "replay.json",
        output_dir=output_dir or folder / "out",
        **options,
    )
    return Path(made)


def test_answers_shaped_like_code_are_not_run(bake: Bake, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    attempts = [
        f"{{{{ cycler.__init__.__globals__.os.mkdir('{proof}') }}}}",
        f'"""); __import__("os").mkdir("{proof}") #',
        f"$(mkdir {proof})",
    ]
    for text in attempts:
        texts = dict.fromkeys(("project_name", "description", "author_name"), text)
        project = bake(**texts, project_slug="a", package_name="a")
        for path, source in read(project).items():
            if path.endswith(".py"):
                ast.parse(source)
        run(project, sys.executable, "-m", "a", "--help")
    assert not proof.exists()


def test_each_accepted_scheme_opens_its_store(bake: Bake) -> None:
    """The template's lists and the generated registry say the same."""
    project = bake()
    listing = (
        "from my_app.sessions.stores import _cache_backends as c;"
        "from my_app.sessions.stores.database import SQLite, PostgreSQL;"
        "print(sorted(c), sorted(SQLite.drivers + PostgreSQL.drivers))"
    )
    printed = run(project, sys.executable, "-c", listing)
    databases = {*template_answers.DATABASE_SCHEMES, "sqlite+pysqlite"}
    assert printed.strip() == f"{sorted(template_answers.CACHE_SCHEMES)} {sorted(databases)}"


def test_no_dependency_can_be_hidden_by_a_package(bake: Bake) -> None:
    for store in SETTINGS["session_store"]:
        project = bake(session_store=store)
        metadata = tomllib.loads((project / "pyproject.toml").read_text())
        needed = metadata["project"]["dependencies"] + metadata["dependency-groups"]["dev"]
        lines = [line for line in needed if isinstance(line, str)]
        names = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in lines}
        folders = {path.name for path in project.iterdir() if path.is_dir()} - {".github"}
        assert names | folders <= template_answers.TAKEN


NAME = "{{cookiecutter.package_name}}"
PLAIN = [
    *("", "\n", "a\n\n", "{ {", "}}", f"{NAME}", f"a {NAME}.b\n", f"{NAME}\n", f"{NAME}{NAME}"),
    *(f"{{{NAME}", f"{NAME}}}", f"{{{{{NAME}", f"{{%{NAME}", f"{NAME}% {{", f"{{ {NAME}"),
    *("{{ cookiecutter.package_name | upper }}", "{{cookiecutter.description|html}}"),
    *("{{ cookiecutter.description | toml }}", "{{ cookiecutter.description | tojson }}"),
    *("{{ cookiecutter.none }}", "{{ cookiecutter.none | upper }}", "{{ none.package_name }}"),
    *("{{- cookiecutter.package_name -}} ", "{{ cookiecutter.package_name.none }}", "{{ 7*7 }}"),
    *("{{ cookiecutter['package_name'] }}", "{% if 1 %}\n{% endif %}", "{# no #}\n", "a\\1"),
]


class TestWhatToDoNext:
    FIRST = ("make run   # http://127.0.0.1:8000", "make test")

    @pytest.mark.parametrize(
        ("answers", "steps"),
        [
            ({"session_store": "memory"}, FIRST),
            (
                {"session_store": "cache", "environment": "prod"},
                ("docker compose up -d  # the server that holds the sessions", *FIRST),
            ),
        ],
    )
    def test_it_is_said(
        self,
        bake: Bake,
        capsys: pytest.CaptureFixture[str],
        answers: dict[str, str],
        steps: tuple[str, ...],
    ) -> None:
        project = bake(**answers)
        store, environment = answers["session_store"], answers.get("environment", "dev")
        assert capsys.readouterr().out.split("\n") == [
            "",
            f"Sessions live in the {store} store: config/{environment}.toml says so.",
            "",
            f"  cd {project}",
            *(f"  {step}" for step in steps),
            *("", ""),
        ]

    def test_it_is_said_when_all_is_there(self, bake: Bake, tmp_path: Path) -> None:
        there = []

        class Screen(io.StringIO):
            def write(self, text: str) -> int:
                there.append({path for path in tmp_path.rglob("*") if path.is_file()})
                return super().write(text)

        with redirect_stdout(Screen()):
            project = bake()
        assert there
        for files in there:
            assert files.issuperset(path for path in project.rglob("*") if path.is_file())


class TestWhatJinjaIsSpared:
    @pytest.fixture
    def environment(self) -> Environment:
        """Cookiecutter's, when it renders files."""
        environment: Environment = create_env_with_context({"cookiecutter": SETTINGS})
        environment.loader = FileSystemLoader([PROJECT, TEMPLATE / "templates"])
        return environment

    @staticmethod
    def render(environment: Environment, text: str) -> str:
        try:
            answers = {"package_name": "my_app", "description": CARRIED[1], "project_slug": "a"}
            return environment.from_string(text).render(cookiecutter=answers)
        except (UndefinedError, TemplateSyntaxError) as error:
            return repr(error)

    @pytest.mark.parametrize("text", PLAIN)
    def test_it_is_as_jinja_would_have_made_it(self, environment: Environment, text: str) -> None:
        by_us = self.render(environment, text)
        for name in ("compile", "template_class"):
            delattr(environment, name)
        assert by_us == self.render(environment, text)

    def test_it_is_all_python(self, environment: Environment) -> None:
        """To which most of the time of a bake went."""
        for path in PROJECT.rglob("*.py"):
            assert environment.compile(path.read_text()) == path.read_text(), path

    def test_it_can_be_included(self, environment: Environment) -> None:
        name = "src/{{cookiecutter.package_name}}/__init__.py"
        text = f"{{% include {name!r} %}}"
        assert self.render(environment, text) == self.render(
            environment, (PROJECT / name).read_text()
        )


@pytest.mark.parametrize("file", ["template_extension.py", "template_answers.py"])
def test_what_runs_in_the_users_cookiecutter_is_python_3_10(file: str) -> None:
    source = (TEMPLATE / file).read_text()
    tree = ast.parse(source, feature_version=(3, 10))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names | {"jinja2", "cookiecutter", "template_answers"}


def test_the_prompts_explain_each_choice() -> None:
    prompts: dict[str, Any] = SETTINGS["__prompts__"]
    asked = [name for name in SETTINGS if not name.startswith("_")]
    assert [name for name in prompts if not name.startswith("_")] == asked
    assert set(prompts["session_store"]) == {"__prompt__", *SETTINGS["session_store"]}


def make(target: str, **variables: str) -> subprocess.CompletedProcess[str]:
    settings = [f"{name}={value}" for name, value in variables.items()]
    command = ["make", "--no-print-directory", "-C", str(TEMPLATE), target, *settings]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


class TestMakeNew:
    def test_it_generates_where_it_is_told(self, tmp_path: Path) -> None:
        done = make("new", OUT=str(tmp_path), ARGS="--no-input session_store=cache")
        assert done.returncode == 0, done.stderr
        assert 'type = "cache"' in (tmp_path / "my-app/config/dev.toml").read_text()
        assert f"cd {tmp_path}/my-app" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ("--no-input session_store=nosql", "the choices are ['memory', 'file', 'database'"),
            ("--no-input sesion_store=file", "did you mean session_store?"),
            ("--no-input project_slug=../x", 'project_slug: "../x"'),
            ("--no-output", "No such option"),
            ("", "--no-input"),
        ],
    )
    def test_it_refuses_in_one_message(self, tmp_path: Path, arguments: str, says: str) -> None:
        done = make("new", OUT=str(tmp_path / "out"), ARGS=arguments)
        assert done.returncode == 2
        assert says in done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("answers", "says"),
        [
            ("author_name:", 'author_name: "None"'),
            ("environment: on", 'environment: "True"'),
            ("_database_url: 5", '_database_url: "5"'),
            ("session_store: nosql", "nosql"),
        ],
    )
    def test_it_refuses_what_is_no_text_in_a_file_of_answers(
        self, tmp_path: Path, answers: str, says: str
    ) -> None:
        file = tmp_path / "answers.yaml"
        file.write_text(f"default_context:\n  {answers}\n")
        done = make("new", OUT=str(tmp_path / "out"), ARGS=f"--no-input --config-file {file}")
        assert done.returncode == 2
        assert says in done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert not (tmp_path / "out").exists()

    def test_it_says_what_it_left_when_the_disk_was_full(self, tmp_path: Path) -> None:
        limited = f"ulimit -f 4; exec {sys.executable} new.py -o {tmp_path} --no-input"
        done = subprocess.run(
            ["sh", "-c", limited], cwd=TEMPLATE, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "File too large\nNot whole: my-app. Remove it" in done.stderr

    def test_an_existing_project_stays_as_it_is(self, tmp_path: Path) -> None:
        make("new", OUT=str(tmp_path), ARGS="--no-input")
        (tmp_path / "my-app/README.md").write_text("mine")
        done = make("new", OUT=str(tmp_path), ARGS="--no-input")
        assert done.returncode == 2
        assert "already exists" in done.stdout
        assert (tmp_path / "my-app/README.md").read_text() == "mine"

"""Every answer is hostile until proven otherwise: it arrives intact, or is refused in words."""

from __future__ import annotations

import ast
import html
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from jinja2 import Environment
from markdown_it import MarkdownIt
from pytest_cookies.plugin import Cookies
from serversessions.cli import questions
from serversessions.config import ConfigError
from serversessions.location import Location
from serversessions.stores import kind_of, open_store

import template_extension

from .conftest import KINDS, SETTINGS, TEMPLATE, Bake, read, run

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
    shown = page.render(url_for=lambda name, **_: name)
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
    cookies: Cookies, tmp_path: Path, question: str, answer: str
) -> None:
    answers = {"project_slug": "fine", "package_name": "fine"} | {question: answer}
    before = sorted(tmp_path.rglob("*"))
    said = refusal(cookies, answers).splitlines()
    assert said[0] == "One answer can't be used:"
    assert said[1].startswith(f"  {question}: ")
    assert said[3] == "Nothing was generated."
    left = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert [path for path in left if path.name not in ("cookies", "bake00")] == []


def refusal(cookies: Cookies, answers: dict[str, str]) -> str:
    """What is said when nothing is generated."""
    stopped = cookies.bake(extra_context=answers).exception
    assert isinstance(stopped, SystemExit)
    return str(stopped.code)


def test_all_wrong_answers_are_listed_at_once(cookies: Cookies) -> None:
    said = refusal(cookies, {question: answers[1] for question, answers in REFUSED.items()})
    assert f"{len(REFUSED)} answers can't be used:" in said
    assert all(f"\n  {question}: " in said for question in REFUSED)


def test_the_answers_that_are_right_are_not_lost(cookies: Cookies) -> None:
    right = {"project_name": "O'Neil {{ 7*7 }}", "package_name": "shop", "environment": "prod"}
    *_, told, last = refusal(cookies, right | {"project_slug": "../x"}).splitlines()
    assert told == "To keep the other answers, add them to the same command:"
    assert dict(each.split("=", 1) for each in shlex.split(last)) == right
    assert "add them" not in refusal(cookies, {"project_slug": "../x", "package_name": "../x"})


@pytest.mark.parametrize(
    ("question", "url"),
    [
        ("_cache_uri", "redis://:s3cret@localhost/0"),
        ("_cache_uri", "rediss://s3cret@localhost/0"),  # a token as a user's name
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
    assert "Leave user and password out" in done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"s3cret" in path.read_bytes() for path in kept)


@pytest.mark.parametrize(
    ("question", "answer"), [("package_name", "class"), ("project_slug", "../x")]
)
def test_a_replay_is_checked_before_anything_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], question: str, answer: str
) -> None:
    """It asks nothing, and so passes by the check of what was answered: the hook makes it."""
    with pytest.raises(FailedHookException):
        replay(tmp_path, {question: answer})
    said = capfd.readouterr().err.splitlines()
    assert said[:2] == ["One answer can't be used:", f'  {question}: "{answer}"']
    assert said[3] == "Nothing was generated."
    left = {path.name for path in tmp_path.iterdir()}
    assert left - {"out"} == {"replay.json", "settings.yaml", "kept"}
    assert not list(tmp_path.glob("out/**/*"))


def test_a_password_in_a_replay_is_kept_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(FailedHookException):
        replay(tmp_path, {"_cache_uri": "redis://:s3cret@h/0"})
    hooks = [path.read_text() for path in (tmp_path / "temporary").iterdir()]
    assert hooks
    assert not any("s3cret" in text or b"s3cret".hex() in text for text in hooks)


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


def test_each_accepted_scheme_opens_its_store() -> None:
    """The template's list and the engine's registry say the same."""
    for scheme in template_extension.CACHE_SCHEMES:
        assert kind_of(f"{scheme}://host") == "cache"
    for scheme in template_extension.DATABASE_SCHEMES:
        assert kind_of(f"{scheme}://host/name") == "database"
    with pytest.raises(ConfigError) as refused:
        open_store(Location("none://", key="middlewares.session.store.uri"))
    allowed = str(refused.value).partition("allowed schemes: ")[2]
    assert set(allowed.split(", ")) == set(template_extension.CACHE_SCHEMES)


def test_no_dependency_can_be_hidden_by_a_package(born: Bake) -> None:
    for store in SETTINGS["session_store"]:
        project = born(session_store=store)
        metadata = tomllib.loads((project / "pyproject.toml").read_text())
        needed = metadata["project"]["dependencies"] + metadata["dependency-groups"]["dev"]
        lines = [line for line in needed if isinstance(line, str)]
        names = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in lines}
        folders = {path.name for path in project.iterdir() if path.is_dir()} - {".github"}
        packages = {path.name for path in (project / "src").iterdir()} - {"my_app"}
        assert names | folders | packages <= set(template_extension.TAKEN)


class TestWhatToDoNext:
    FIRST = ("make run   # http://127.0.0.1:8000", "make test")

    @pytest.fixture(params=[False, True], ids=["pip", "uv"])
    def has_uv(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> bool:
        uv = tmp_path / "bin" / "uv"
        uv.parent.mkdir()
        if request.param:
            uv.touch(mode=0o755)
        monkeypatch.setenv("PATH", str(uv.parent))
        return bool(request.param)

    @pytest.mark.parametrize(
        ("answers", "server"),
        [
            ({"session_store": "memory"}, ()),
            (
                {"session_store": "cache", "environment": "prod"},
                ("docker compose up --detach   # the server that holds the sessions",),
            ),
            (
                KINDS["postgresql"],
                ("make database   # PostgreSQL in Docker, with a password in .env",),
            ),
        ],
    )
    def test_it_is_said(
        self,
        bake: Bake,
        capfd: pytest.CaptureFixture[str],
        has_uv: bool,
        answers: dict[str, str],
        server: tuple[str, ...],
    ) -> None:
        project = bake(**answers)
        store, environment = answers["session_store"], answers.get("environment", "dev")
        run = f"uv run my-app run --env {environment} --reload   # http://127.0.0.1:8000"
        steps = (run, "uv run pytest") if has_uv else self.FIRST
        assert capfd.readouterr().out.split("\n") == [
            "",
            f"Sessions: {store}, as config/{environment}.toml says.",
            "",
            f"  cd {project}",
            *(f"  {step}" for step in (*server, *steps)),
            *("", ""),
        ]


FILES = ("template_extension.py", "hooks/pre_gen_project.py", "hooks/post_gen_project.py")


@pytest.mark.parametrize("file", FILES)
def test_what_runs_in_the_users_cookiecutter_is_python_3_10(file: str) -> None:
    source = (TEMPLATE / file).read_text()
    imported: set[str] = set()
    for node in ast.walk(ast.parse(source, feature_version=(3, 10))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    others = {"jinja2"} if file == "template_extension.py" else set()
    assert imported <= sys.stdlib_module_names | others


def test_the_machinery_stays_small() -> None:
    lines = [line for file in FILES for line in (TEMPLATE / file).read_text().splitlines()]
    assert len(lines) < 300


def test_the_prompts_explain_each_choice() -> None:
    prompts: dict[str, Any] = SETTINGS["__prompts__"]
    asked = [name for name in SETTINGS if not name.startswith("_")]
    assert [name for name in prompts if not name.startswith("_")] == asked
    assert set(prompts["session_store"]) == {"__prompt__", *SETTINGS["session_store"]}


def test_the_projects_command_asks_in_the_same_words() -> None:
    prompts = SETTINGS["__prompts__"]
    assert prompts["session_store"] == {"__prompt__": questions.STORE} | questions.STORES
    assert list(questions.STORES) == SETTINGS["session_store"]
    asked = {"path": "_file_path", "url": "_database_url", "uri": "_cache_uri"}
    assert {key: prompts[name] for key, name in asked.items()} == questions.LOCATIONS
    defaults = {key: SETTINGS[name] for key, name in asked.items()}
    assert defaults | {"store": SETTINGS["session_store"][0]} == questions.DEFAULTS


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
            ("--no-input session_store=nosql", "but the choices are ['file', 'memory', "),
            ("--no-input project_slug=../x", 'project_slug: "../x"'),
            ("--no-output", "No such option"),
        ],
    )
    def test_it_says_what_plain_cookiecutter_says(
        self, tmp_path: Path, arguments: str, says: str
    ) -> None:
        out = str(tmp_path / "out")
        made = make("new", OUT=out, ARGS=arguments)
        assert made.returncode == 2  # make's own, whatever a command's is
        assert says in made.stderr
        command = (sys.executable, "-m", "cookiecutter", ".", f"--output-dir={out}")
        plain = subprocess.run(
            [*command, *arguments.split()], cwd=TEMPLATE, capture_output=True, text=True
        )
        assert plain.returncode
        # For an unknown choice it shows a traceback, whose files differ by how it was started.
        aside = ("make:", "Traceback", "  ")
        said, said_plainly = (
            [line for line in each.stderr.splitlines() if not line.startswith(aside)]
            for each in (made, plain)
        )
        assert said == said_plainly
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("answers", "says"),
        [
            ("author_name:", 'author_name: "None"'),
            ("environment: on", 'environment: "True"'),
            ("_database_url: 5", '_database_url: "5"'),
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

    def test_an_existing_project_stays_as_it_is(self, tmp_path: Path) -> None:
        make("new", OUT=str(tmp_path), ARGS="--no-input")
        (tmp_path / "my-app/README.md").write_text("mine")
        done = make("new", OUT=str(tmp_path), ARGS="--no-input")
        assert done.returncode == 2
        assert "already exists" in done.stdout
        assert (tmp_path / "my-app/README.md").read_text() == "mine"

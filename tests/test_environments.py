"""A project's environments: added by the template or by command, moved, and never half-written."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from cookiecutter.main import cookiecutter

from .conftest import (
    CHOICES,
    KINDS,
    PYTHON,
    SETTINGS,
    TEMPLATE,
    Bake,
    do_without,
    read,
    run,
    run_tests,
)

STORES: list[str] = CHOICES["session_store"]
MOVES = [
    (kind, store) for kind, born in KINDS.items() for store in STORES if store not in born.values()
]
# After a move, of a project's tests those that its store has a part in: the Python is the same, and
# where a project was born on a store, test_matrix.py runs all.
OF_THE_STORE = ("-k", "restart or live_and_ready or never_overwrites")
# What YAML, TOML, Jinja or a shell could trip over.
TEXTS = [
    *('"', "'", "\\", '\\"\\n', "# none", "a # b", "a: b", ": a", "- a", "? a", "[a", "{a: b}"),
    *("{{ 7*7 }}", "{% raw %}", "{# no #}", "&a", "*a", "!a", "|", ">", "%a", "@a", "`a`", "---"),
    *("~", "null", "yes", "1", "1e3", "2030-01-01", "<<", "=", "😀 👩\u200d👧"),
    *("$(id) ${HOME}", "日本", "x" * 200),
]
QUESTIONS = ("project_name", "description", "author_name", "_file_path")
NAMES = {"project_slug": "my-app", "package_name": "my_app"}
HOSTILE = [
    dict(zip(QUESTIONS, TEXTS[first : first + len(QUESTIONS)], strict=True))
    for first in range(0, len(TEXTS), len(QUESTIONS))
]
CONFIG = (PYTHON, "-m", "my_app", "config")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without settings of cookiecutter or git, and with nothing of value."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}")
    return home


def state(folder: Path) -> dict[Path, tuple[Any, ...]]:
    """All that would tell if something was written, but for a folder when it was."""
    found = {}
    for path in folder.rglob("*"):
        if "__pycache__" in path.parts:
            continue
        status = path.stat()
        content = (status.st_mtime_ns, path.read_bytes()) if path.is_file() else ()
        found[path] = (status.st_ino, status.st_mode, *content)
    return found


def again(project: Path, **answers: str) -> None:
    """The template over a project, as the project's .cookiecutterrc tells."""
    generate(project, project.parent, **answers)


def generate(project: Path, into: Path, **answers: str) -> None:
    """The template with the answers that a project has kept."""
    settings = Path.home() / "settings.yaml"  # with the answers for a replay here, too
    replay = json.dumps(str(Path.home() / "replay"))
    settings.write_text(f"{(project / '.cookiecutterrc').read_text()}replay_dir: {replay}\n")
    cookiecutter(
        str(TEMPLATE),
        config_file=str(settings),
        no_input=True,
        output_dir=str(into),
        overwrite_if_exists=True,
        skip_if_file_exists=True,
        extra_context=answers,
    )


def edit(project: Path) -> None:
    """As its user would: some files changed, and one of their own."""
    for name in (
        "README.md",
        "config/dev.toml",
        "src/my_app/app.py",
        "src/serversessions/__init__.py",
    ):
        with (project / name).open("a") as file:
            file.write("# mine\n")
    (project / "src" / "my_app" / "shop.py").write_text("x = 1\n")


def configure(project: Path, *commands: list[str]) -> list[str]:
    """``config`` commands on one file, run in one process; what the file holds after each."""
    script = """
import json, sys
from contextlib import redirect_stdout
from pathlib import Path
from my_app.cli import main

texts = []
for command in json.loads(sys.argv[1]):
    with redirect_stdout(sys.stderr):
        main(["config", *command], standalone_mode=False)
    texts.append(Path("config", f"{command[1]}.toml").read_text())
Path("texts.json").write_text(json.dumps(texts))
"""
    run(project, PYTHON, "-c", script, json.dumps(commands))
    texts: list[str] = json.loads((project / "texts.json").read_text())
    (project / "texts.json").unlink()
    return texts


class TestTheTemplateAgain:
    @pytest.mark.parametrize("kind", ["memory", "postgresql"])
    def test_it_writes_the_same_bytes_as_the_command(self, bake: Bake, kind: str) -> None:
        answers = NAMES | dict.fromkeys(QUESTIONS, " ".join(TEXTS[:-1])) | KINDS[kind]
        project = bake(**answers)
        places = {"database": ["--url", answers["_database_url"]]} if kind == "postgresql" else {}
        places["file"] = ["--path", answers["_file_path"]]
        new = [
            ["new", f"on-{store}", "--store", store, *places.get(store, []), "--yes"]
            for store in STORES
        ]
        for store, by_command in zip(STORES, configure(project, *new), strict=True):
            environment = {"environment": f"on-{store}", "session_store": store}
            added = project / "config" / f"on-{store}.toml"
            added.unlink()
            again(project, **environment)
            assert added.read_text() == by_command
            # And as the first environment of a project: what test_matrix.py proves, holds.
            first = bake(**answers | environment) / "config" / added.name
            assert added.read_bytes() == first.read_bytes()

    @pytest.mark.parametrize("kind", ["memory", "postgresql"])
    def test_it_touches_nothing_else_and_twice_is_as_once(self, bake: Bake, kind: str) -> None:
        project = bake(**KINDS[kind])
        edit(project)
        before = state(project)
        for store in STORES:
            again(project, environment=f"on-{store}", session_store=store)
        after = state(project)
        added = {project / "config" / f"on-{store}.toml" for store in STORES}
        assert after.keys() - before.keys() == added
        assert {path: after[path] for path in before} == before

        for store in STORES:
            again(project, environment=f"on-{store}", session_store=store)
        assert state(project) == after

    def test_the_command_that_the_project_tells_works(self, bake: Bake) -> None:
        project = bake()
        edit(project)
        before = state(project)
        rc = (project / ".cookiecutterrc").read_text().replace("\n#", "\n")
        (told,) = re.findall(r"   cookiecutter TEMPLATE .*\\\n.*\n", rc)
        page = (TEMPLATE / "docs" / "updates.md").read_text().replace("ADDRESS", "TEMPLATE")
        assert " ".join(told.split()) in " ".join(page.split())
        command = told.replace("TEMPLATE", shlex.quote(str(TEMPLATE)))
        assert "config check prod" in run(project, "sh", "-c", command)
        after = state(project)
        assert after.keys() - before.keys() == {project / "config" / "prod.toml"}
        assert {path: after[path] for path in before} == before
        run(project, "sh", "-c", command)
        assert state(project) == after

    def test_make_new_does_it_too(self, bake: Bake) -> None:
        project = bake()
        before = state(project)
        options = f"--config-file {project}/.cookiecutterrc --no-input --overwrite-if-exists"
        arguments = f"ARGS={options} --skip-if-file-exists environment=prod session_store=cache"
        make = ("make", "--no-print-directory", "-C", str(TEMPLATE), "new", f"OUT={project.parent}")
        run(project, *make, arguments, MAKEFLAGS="")
        after = state(project)
        assert after.keys() - before.keys() == {project / "config" / "prod.toml"}
        assert {path: after[path] for path in before} == before

    @pytest.mark.parametrize(
        "answers",
        [
            {"environment": "../x"},
            {"environment": "prod", "_cache_uri": "redis://:s3cret@h/0", "session_store": "cache"},
        ],
        ids=["name", "password"],
    )
    def test_a_wrong_answer_leaves_the_project_as_it_is(
        self, bake: Bake, home: Path, answers: dict[str, str]
    ) -> None:
        project = bake()
        before = state(project)
        with pytest.raises(SystemExit):
            again(project, **answers)
        assert state(project) == before
        assert not any("s3cret" in text for text in read(home).values())

    def test_an_environment_that_is_there_stays(self, bake: Bake) -> None:
        project = bake()
        before = state(project)
        again(project, environment="dev", session_store="cache")
        assert state(project) == before

    def test_the_projects_tests_then_run_on_the_stores_that_were_added(self, bake: Bake) -> None:
        project = bake()
        for store in STORES:
            again(project, environment=f"on-{store}", session_store=store)
        printed = run_tests(project, "-v", *OF_THE_STORE)
        for store in STORES:
            assert f"test_create_never_overwrites[on-{store}] PASSED" in printed


class TestTheAnswersFile:
    @pytest.mark.parametrize("answers", HOSTILE, ids=lambda answers: answers["project_name"])
    def test_it_carries_any_text_to_an_identical_project(
        self, bake: Bake, tmp_path: Path, answers: dict[str, str]
    ) -> None:
        project = bake(**NAMES, **answers, session_store="file")
        kept = yaml.safe_load((project / ".cookiecutterrc").read_text())["default_context"]
        assert {question: kept[question] for question in QUESTIONS} == answers
        generate(project, tmp_path / "other")
        assert read(tmp_path / "other" / "my-app") == read(project)

    @pytest.mark.parametrize("kind", KINDS)
    def test_each_kind_of_project_can_be_made_again(
        self, bake: Bake, tmp_path: Path, kind: str
    ) -> None:
        project = bake(**KINDS[kind], environment="prod")
        generate(project, tmp_path / "other")
        assert read(tmp_path / "other" / "my-app") == read(project)

    def test_it_holds_the_answers_and_nothing_else(self, bake: Bake) -> None:
        """Among which is no password: those are refused, see test_answers.py."""
        kept = yaml.safe_load((bake() / ".cookiecutterrc").read_text())
        own = {"__checked", "__prompts__", "_extensions", "_jinja2_env_vars"}
        assert kept.keys() == {"default_context"}
        assert kept["default_context"].keys() == SETTINGS.keys() - own


class TestAMove:
    @pytest.mark.parametrize(("kind", "store"), MOVES)
    def test_the_projects_own_tests_pass_after_it(self, bake: Bake, kind: str, store: str) -> None:
        project = bake(**KINDS[kind])
        run(project, *CONFIG, "set-store", "dev", "--store", store, "--yes")
        printed = run_tests(project, "-v", *OF_THE_STORE)
        assert "test_create_never_overwrites[dev] PASSED" in printed

    @pytest.mark.parametrize("kind", KINDS)
    def test_twice_round_each_one_ends_where_a_project_is_born(self, bake: Bake, kind: str) -> None:
        """So it depends on no earlier one, and no tests need to run a second time."""
        born = {store: bake(**(KINDS[kind] | {"session_store": store})) for store in STORES}
        births = {store: (born[store] / "config" / "dev.toml").read_text() for store in STORES}
        own = KINDS[kind]["session_store"]
        table = "[middlewares.session.store]"
        text = births[own].replace(table, f"# above\n{table}  # beside\n# below") + "# end\n"
        (born[own] / "config" / "dev.toml").write_text(text)

        database = tomllib.loads(births["database"])["database"]
        round_ = [*(store for store in STORES if store != own), own]
        moves = [["set-store", "dev", "--store", store, "--yes"] for store in round_ * 2]
        for store, moved in zip(round_ * 2, configure(born[own], *moves), strict=True):
            # A database that is there stays: it is the app's.
            data = {"database": database} | tomllib.loads(moved)
            assert data == {"database": database} | tomllib.loads(births[store])
            assert re.findall("#.*", moved) == re.findall("#.*", text)


# What makes config/ unwritable in a mount namespace of a command's own, and what is then said.
MOUNTS = {
    "Read-only file system": """
        mount --bind config config && mount -o remount,ro,bind config && "$@" """,
    "No space left on device": """
        cp config/* ~ && mount -t tmpfs -o size=64k none config
        cp ~/dev.toml ~/environment.toml.jinja config
        head -c 128k /dev/zero > config/fill 2> /dev/null
        "$@"
        status=$?
        cmp ~/dev.toml config/dev.toml
        test "$(echo $(ls -A config))" = "dev.toml environment.toml.jinja fill" || ls -A config
        exit $status""",
}


class TestFaults:
    def refused(self, project: Path, *through: str) -> list[str]:
        """What is said by commands that can't write, and have changed nothing."""
        before = state(project)
        options = ("--store", "memory", "--yes")
        said = [
            run(project, *through, *CONFIG, *command, *options, status=1)
            for command in (("new", "prod"), ("set-store", "dev"))
        ]
        assert state(project) == before
        return said

    def test_a_read_only_folder_is_told(self, bake: Bake) -> None:
        project = bake()
        (project / "config").chmod(0o555)
        is_root = os.geteuid() == 0  # who may write there all the same
        obey = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if is_root else ()
        assert self.refused(project, *obey) == [
            f"Error: config/{name}.toml: Permission denied; nothing was changed\n"
            for name in ("prod", "dev")
        ]

    def test_a_disk_without_room_is_told(self, bake: Bake) -> None:
        assert self.refused(bake(), "sh", "-c", 'ulimit -f 0; exec "$@"', "sh") == [
            f"Error: config/{name}.toml: File too large; nothing was changed\n"
            for name in ("prod", "dev")
        ]

    @pytest.mark.parametrize("reason", MOUNTS)
    def test_a_read_only_or_full_disk_is_told(self, bake: Bake, reason: str) -> None:
        namespace = ("unshare", "--map-root-user", "--mount")
        if not shutil.which(namespace[0]) or subprocess.run([*namespace, "true"]).returncode:
            do_without("unshare can't make a mount namespace here: no disk can be filled")
        assert self.refused(bake(), *namespace, "sh", "-c", MOUNTS[reason], "sh") == [
            f"Error: config/{name}.toml: {reason}; nothing was changed\n"
            for name in ("prod", "dev")
        ]

    def test_a_move_that_is_killed_leaves_the_old_file_or_the_new(self, bake: Bake) -> None:
        project = bake(session_store="memory")
        old = (project / "config" / "dev.toml").read_text()
        file, memory = [["set-store", "dev", "--store", s, "--yes"] for s in ("file", "memory")]
        new, back = configure(project, file, memory)
        assert back == old
        script = """
import json, os, random, signal, time
from pathlib import Path
from my_app.cli import main

os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
seen = set()
for _ in range(40):
    done, ours = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        while True:
            for store in ("file", "memory"):
                move = ["config", "set-store", "dev", "--store", store, "--yes"]
                main(move, standalone_mode=False)
                os.write(ours, b".")
    for _ in range(random.randrange(1, 4)):
        os.read(done, 1)
    time.sleep(random.uniform(0, 0.01))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen.add(Path("config/dev.toml").read_text())
print(json.dumps(list(seen)))
"""
        seen = set(json.loads(run(project, PYTHON, "-c", script)))
        assert seen <= {old, new}
        # What a killed one leaves behind is no environment, and stays out of git.
        (project / "config" / ".dev.toml.0a1b2c3d.tmp").write_text("half")
        assert "1 checked: no errors" in run(project, *CONFIG, "check")
        run(project, "git", "init", "--quiet")
        status = run(project, "git", "status", "--porcelain", "--untracked-files=all", "config")
        assert status == "?? config/dev.toml\n?? config/environment.toml.jinja\n"

    def test_of_several_at_once_one_writes(self, bake: Bake) -> None:
        project = bake()
        script = """
import os, sys, time
from my_app.cli import main

for turn in range(5):
    start = time.monotonic() + 0.05
    children = []
    for number in range(4):
        children.append(os.fork())
        if not children[-1]:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            while time.monotonic() < start:
                pass
            place = ["--store", "file", "--path", str(number)]
            main(["config", "new", f"e{turn}", *place], prog_name="my-app")
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    text = open(f"config/e{turn}.toml").read()
    assert sum(status == 0 for status in statuses) == 1, statuses
    assert text.endswith(f'path = "{statuses.index(0)}"\\n'), text
"""
        run(project, PYTHON, "-c", script)
        names = {path.name for path in (project / "config").iterdir()}
        born = {"dev.toml", "environment.toml.jinja"}
        assert names == born | {f"e{turn}.toml" for turn in range(5)}

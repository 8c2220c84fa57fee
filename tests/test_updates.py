"""Later versions reach a project by cruft: the commands of docs/updates.md, word for word."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import PYTHON, TEMPLATE, run

PARTS = ("cookiecutter.json", "engine", "hooks", "template_extension.py", "templates", "{{*}}")
PROJECT = "{{cookiecutter.project_slug}}"

UPDATE = "COOKIECUTTER_CONFIG=.cookiecutterrc cruft update"

Shell = Callable[..., str]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a line of shell, for a user who has cruft, presses Enter, and has no settings of it."""
    (tmp_path / ".gitconfig").write_text("[user]\nname = Ada\nemail = ada@example.org\n")
    path = f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}"

    def shell(folder: Path, line: str, status: int = 0) -> str:
        answered = f"yes '' | {{ {line}\n}}"
        return run(folder, "sh", "-c", answered, status=status, HOME=str(tmp_path), PATH=path)

    return shell


@pytest.fixture
def template(tmp_path: Path, shell: Shell) -> Path:
    """A clone of the template, whose only version is tagged v1."""
    clone = tmp_path / "template"
    for pattern in PARTS:
        for part in TEMPLATE.glob(pattern):
            if part.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
                shutil.copytree(part, clone / part.name, ignore=ignored)
            else:
                clone.mkdir(exist_ok=True)
                shutil.copy(part, clone)
    shell(clone, "git init --quiet && git add --all && git commit --quiet -m v1 && git tag v1")
    return clone


@pytest.fixture
def project(tmp_path: Path, template: Path, shell: Shell) -> Path:
    """A project made by cruft, and kept in git."""
    said = shell(tmp_path, command("cruft create", template))
    assert f"\n  cd {tmp_path}/my-app\n" in said
    return begin(tmp_path / "my-app", shell)


def command(begins: str, template: Path) -> str:
    """One of the commands of docs/updates.md, for this template."""
    (found,) = re.findall(rf"^    ({begins}(?:.*\\\n)*.*)$", read_me(), re.MULTILINE)
    line: str = found
    return line.replace("ADDRESS", str(template)).replace("VERSION", "v1")


def read_me() -> str:
    return (TEMPLATE / "docs" / "updates.md").read_text()


def begin(project: Path, shell: Shell) -> Path:
    shell(project, "git init --quiet && git add --all && git commit --quiet -m mine")
    return project


def commit(folder: Path, shell: Shell) -> None:
    shell(folder, "git add --all && git commit --quiet -m more")


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def files(project: Path, shell: Shell) -> dict[str, str]:
    """The text of each file in git, as it is now."""
    return {name: (project / name).read_text() for name in shell(project, "git ls-files").split()}


def changes(project: Path, shell: Shell) -> dict[str, str]:
    """What git tells of each file that is not as it was committed."""
    lines = shell(project, "git status --porcelain --untracked-files=all").splitlines()
    return {line[3:]: line[:2].strip() for line in lines}


def test_an_update_brings_what_is_new_and_keeps_what_is_mine(
    template: Path, project: Path, shell: Shell
) -> None:
    app, readme = project / "src" / "my_app" / "app.py", project / "README.md"
    shell(project, "python -m my_app config new prod --store cache --yes")
    shell(project, "python -m my_app config set-store dev --store file --yes")
    readme.write_text(f"{readme.read_text()}\n## Mine\n")
    app.write_text(f"{app.read_text()}\n\nMINE = 1\n")
    (project / "src" / "my_app" / "shop.py").write_text("x = 1\n")
    (project / "src" / "my_app" / "static" / "style.css").unlink()
    commit(project, shell)
    mine = files(project, shell)
    assert "SUCCESS" in shell(project, command("cruft check", template))

    replace(template / PROJECT / "src/{{cookiecutter.package_name}}/app.py", '"""', '"""Newly. ')
    replace(template / PROJECT / "README.md", "    make run ", "    make run  ")
    replace(template / PROJECT / "src/{{cookiecutter.package_name}}/static/style.css", "{", " {")
    replace(template / "engine/src/serversessions/ids.py", '"""', '"""Newer. ')
    (template / "engine/src/serversessions/newer.py").write_text("x = 1\n")
    (template / "engine/src/serversessions/events.py").unlink()
    (template / PROJECT / "NEW.md").write_text("{{ cookiecutter.project_name }}\n")
    commit(template, shell)
    assert "FAILURE" in shell(project, command("cruft check", template), status=1)
    shell(project, command(UPDATE, template))

    expected = dict.fromkeys(("README.md", "src/my_app/app.py"), "M")
    engine = {"ids.py": "M", "newer.py": "A", "events.py": "D"}
    expected |= {f"src/serversessions/{name}": change for name, change in engine.items()}
    assert changes(project, shell) == expected | {"NEW.md": "A", ".cruft.json": "M"}
    assert (project / "NEW.md").read_text() == "My App\n"
    for name in (".cruft.json", *(f"src/serversessions/{name}" for name in engine)):
        mine.pop(name, None)
    mine["README.md"] = mine["README.md"].replace("    make run ", "    make run  ")
    mine["src/my_app/app.py"] = mine["src/my_app/app.py"].replace('"""', '"""Newly. ', 1)
    now = files(project, shell)
    assert {name: now[name] for name in mine} == mine

    commit(project, shell)
    assert "SUCCESS" in shell(project, command("cruft check", template))
    assert "Nothing to do" in shell(project, command(UPDATE, template))
    assert changes(project, shell) == {}


def test_a_version_with_new_filters_checks_and_texts_arrives(
    template: Path, project: Path, shell: Shell
) -> None:
    """Cruft runs both versions of the extension in one process."""
    new_filter = '"upper_case": upper_case, "html":'
    replace(template / "template_extension.py", '"html":', new_filter)
    replace(template / "template_extension.py", "TAKEN =", "upper_case = str.upper\nTAKEN =")
    hook = template / "hooks" / "post_gen_project.py"
    hook.write_text(
        f"{hook.read_text()}Path('HOOK.md').write_text('{{{{ 'new' | upper_case }}}}')\n"
    )
    replace(template / "templates/environment.toml.jinja", "# Environment", "# New: environment")
    (template / PROJECT / "NEW.md").write_text("{{ cookiecutter.project_name | upper_case }}\n")
    commit(template, shell)
    shell(project, command(UPDATE, template))
    assert (project / "NEW.md").read_text() == "MY APP\n"
    assert (project / "HOOK.md").read_text() == "NEW"
    for name in ("config/dev.toml", "config/environment.toml.jinja"):
        assert "\n# New: environment variables win" in (project / name).read_text()


def test_answers_that_are_never_asked_survive_an_update(
    tmp_path: Path, template: Path, shell: Shell
) -> None:
    uri = "redis://cache.internal:6379/3"
    answers = {"session_store": "cache", "_cache_uri": uri, "description": "- # '{{ 7*7 }}' 😀"}
    given = shlex.quote(json.dumps(answers))
    shell(tmp_path, f"{command('cruft create', template)} --extra-context {given}")
    project = begin(tmp_path / "my-app", shell)
    replace(template / "templates/environment.toml.jinja", "uri = ", "# New.\nuri = ")
    replace(template / PROJECT / "README.md", "    make run ", "    make run  ")
    commit(template, shell)
    shell(project, command(UPDATE, template))
    assert f'# New.\nuri = "{uri}"\n' in (project / "config/dev.toml").read_text()
    assert changes(project, shell) == {
        ".cruft.json": "M",
        "README.md": "M",
        "config/dev.toml": "M",
        "config/environment.toml.jinja": "M",
    }
    context = json.loads((project / ".cruft.json").read_text())["context"]["cookiecutter"]
    assert {name: context[name] for name in answers} == answers


def test_a_project_made_without_cruft_can_be_linked(
    tmp_path: Path, template: Path, shell: Shell
) -> None:
    shell(tmp_path, f"cookiecutter {template} --no-input project_name=Shop session_store=file")
    project = begin(tmp_path / "shop", shell)
    (template / PROJECT / "NEW.md").write_text("{{ cookiecutter.project_name }}\n")
    commit(template, shell)
    shell(project, command("cruft link", template))
    commit(project, shell)
    assert "FAILURE" in shell(project, command("cruft check", template), status=1)
    shell(project, command(UPDATE, template))
    assert changes(project, shell) == {"NEW.md": "A", ".cruft.json": "M"}
    assert (project / "NEW.md").read_text() == "Shop\n"


def test_a_password_is_refused_and_kept_nowhere(
    tmp_path: Path, template: Path, shell: Shell
) -> None:
    answers = '{"session_store": "cache", "_cache_uri": "redis://:open-sesame@h/0"}'
    create = command("cruft create", template)
    said = shell(tmp_path, f"{create} --extra-context '{answers}'", status=1)
    assert "Leave user and password out" in said
    assert "Traceback" not in said
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"open-sesame" in path.read_bytes() for path in kept)

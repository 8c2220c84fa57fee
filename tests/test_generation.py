"""However a project is generated, the engine is in it: whole, or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from .conftest import ENGINE, PYTHON, TEMPLATE, Bake, read

PARTS = ("cookiecutter.json", "engine", "hooks", "template_extension.py", "templates", "{{*}}")
PLACE = Path("src", "serversessions")
COOKIECUTTER = (PYTHON, "-m", "cookiecutter")


def engine_files() -> dict[str, bytes]:
    """What the folder of the engine holds in a project."""
    package = ENGINE / "src" / "serversessions"
    files = [path for path in package.rglob("*") if path.is_file()]
    own = [path for path in files if path.parent.name != "__pycache__"]
    found = {str(path.relative_to(package)): path.read_bytes() for path in own}
    return found | {name: (ENGINE / name).read_bytes() for name in ("README.md", "LICENSE")}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home where cookiecutter keeps its replays and clones, and nobody else's settings."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def copy_template(folder: Path) -> Path:
    """A copy of the template, without what tools leave behind."""
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache", "tests")
    folder.mkdir()
    for pattern in PARTS:
        for part in TEMPLATE.glob(pattern):
            if part.is_dir() and part.name.startswith("{{"):
                shutil.copytree(part, folder / part.name)
            elif part.is_dir():
                shutil.copytree(part, folder / part.name, ignore=ignored)
            else:
                shutil.copy(part, folder)
    return folder


def generate(folder: Path, template: str, *options: str) -> Path:
    command = (*COOKIECUTTER, template, *options)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "my-app"


def git(folder: Path, *command: str) -> None:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True)


class TestWhereTheTemplateIs:
    def test_a_folder_by_a_relative_path(self, tmp_path: Path) -> None:
        (tmp_path / "template").symlink_to(TEMPLATE)
        project = generate(tmp_path, "template", "--no-input")
        assert contents(project / PLACE) == engine_files()

    def test_the_folder_in_which_one_is(self, tmp_path: Path) -> None:
        options = ("--no-input", "--output-dir", str(tmp_path))
        generate(TEMPLATE, ".", *options)
        assert contents(tmp_path / "my-app" / PLACE) == engine_files()

    def test_a_zip(self, tmp_path: Path) -> None:
        copy_template(tmp_path / "template")
        shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path, "template")
        project = generate(tmp_path, "archive.zip", "--no-input")
        assert contents(project / PLACE) == engine_files()

    def test_a_git_address_and_then_its_replay(self, tmp_path: Path) -> None:
        template = copy_template(tmp_path / "template")
        git(template, "init", "--quiet")
        git(template, "add", "--all")
        git(template, "commit", "--quiet", "--message=all")
        project = generate(tmp_path, f"file://{template}", "--no-input", "author_name={{ Ada }}")
        before = contents(project)
        assert contents(project / PLACE) == engine_files()
        shutil.rmtree(project)
        clone = str(tmp_path / "home" / ".cookiecutters" / "template")
        assert contents(generate(tmp_path, clone, "--replay")) == before


def test_what_is_generated_is_readable_and_writable_whatever_the_template_is(
    tmp_path: Path,
) -> None:
    template = copy_template(tmp_path / "template")
    for path in (template / "engine").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    project = generate(tmp_path, str(template), "--no-input")
    for path in (project / PLACE, *(project / PLACE).rglob("*")):
        assert path.stat().st_mode & 0o600 == 0o600, path
    for path in (template / "engine").rglob("*"):
        path.chmod(0o755)


def test_the_engine_that_is_there_stays_to_the_byte(bake: Bake) -> None:
    project = bake()
    init = project / PLACE / "__init__.py"
    init.write_text("# older\n")
    (project / PLACE / "store.py").unlink()
    before = contents(project)
    again = ("--overwrite-if-exists", "--skip-if-file-exists", f"--output-dir={project.parent}")
    generate(project.parent, str(TEMPLATE), "--no-input", *again)
    assert contents(project) == before


def test_an_engine_that_is_missing_comes_back(bake: Bake) -> None:
    project = bake()
    before = contents(project)
    shutil.rmtree(project / PLACE)
    again = ("--overwrite-if-exists", "--skip-if-file-exists", f"--output-dir={project.parent}")
    generate(project.parent, str(TEMPLATE), "--no-input", *again)
    assert contents(project) == before


class TestNoHalf:
    """Whatever stops it leaves the whole engine or none of it, and can be run again."""

    def test_a_full_disk(self, tmp_path: Path) -> None:
        template = copy_template(tmp_path / "template")
        (template / "engine/src/serversessions/large.bin").write_bytes(b"\0" * 200_000)
        limited = f"ulimit -f 128; exec {sys.executable} -m cookiecutter template --no-input"
        done = subprocess.run(
            ["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "src/serversessions could not be copied" in done.stderr
        assert "File too large" in done.stderr
        assert "--overwrite-if-exists --skip-if-file-exists" in done.stderr
        assert not (tmp_path / "my-app").exists()

    def test_a_full_disk_leaves_the_project_that_was_there(self, bake: Bake) -> None:
        project = bake()
        shutil.rmtree(project / PLACE)
        before = read(project)
        options = "--no-input -f -s -o .."
        command = f"ulimit -f 4; exec {sys.executable} -m cookiecutter {TEMPLATE} {options}"
        done = subprocess.run(
            ["bash", "-c", command], cwd=project, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert read(project) == before

    @pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl+C", "kill -9"])
    def test_one_who_stops_it(self, tmp_path: Path, stop: signal.Signals) -> None:
        """While the engine is being copied: so many files let that last."""
        template = copy_template(tmp_path / "template")
        many = template / "engine" / "src" / "serversessions" / "many"
        many.mkdir()
        for number in range(5000):
            (many / f"{number}.py").touch()
        process = subprocess.Popen(
            [*COOKIECUTTER, "template", "--no-input"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            # A shell that put pytest into the background has it ignore Ctrl+C.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        source = tmp_path / "my-app" / "src"
        deadline = time.monotonic() + 30
        while not list(source.glob(".serversessions-*/*/*")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, stop)  # as a terminal does, and whoever kills the shell
        _, said = process.communicate(timeout=30)
        assert process.returncode
        assert not (tmp_path / "my-app" / PLACE).exists()
        if stop == signal.SIGINT:
            assert b"--overwrite-if-exists --skip-if-file-exists" in said

        shutil.rmtree(many)
        project = generate(tmp_path, "template", "--no-input", "-f", "-s")
        assert contents(project / PLACE) == engine_files()
        # What a killed one leaves behind stays out of git.
        git(project, "init", "--quiet")
        ignored = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=all"],
            cwd=project,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert ".serversessions-" not in ignored

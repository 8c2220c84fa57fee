"""Every combination of answers gives a project that is whole, clean, and passes its own tests."""

from __future__ import annotations

import json
import re
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from .conftest import (
    COMBINATIONS,
    GROUPS,
    KINDS,
    PYTHON,
    TEMPLATE,
    VARIANTS,
    Bake,
    check_types,
    dockerfile,
    named,
    project_on,
    read,
    run,
    run_tests,
)

ALL = [*COMBINATIONS, *VARIANTS]
TEMPLATE_PROJECT = TEMPLATE / "{{cookiecutter.project_slug}}"

FILES = {
    *(".cookiecutterrc", ".env.example", ".github/workflows/ci.yml", ".gitignore", "Dockerfile"),
    *("Makefile", "README.md", "pyproject.toml"),
    *(
        f"src/my_app/{name}"
        for name in (
            *("__init__.py", "__main__.py", "app.py", "checks.py", "pages.py"),
            *("cli/__init__.py", "cli/common.py", "cli/environments.py", "cli/serving.py"),
            "cli/sessions.py",
            *("config/__init__.py", "config/dotenv.py", "config/editing.py"),
            *("config/environment.toml.jinja", "config/environments.py", "config/messages.py"),
            *("config/mistakes.py", "config/model.py", "config/questions.json"),
            *("config/sources.py", "config/values.py"),
            *("templates/base.html", "templates/devices.html", "templates/home.html"),
            *("templates/time.html", "static/style.css"),
            *(
                "migrations/__init__.py",
                "migrations/env.py",
                "migrations/versions/0001_sessions.py",
            ),
            *("sessions/__init__.py", "sessions/cookie.py", "sessions/events.py"),
            *("sessions/expiry.py", "sessions/ids.py", "sessions/manager.py"),
            *("sessions/middleware.py", "sessions/owners.py", "sessions/session.py"),
            *("sessions/store.py", "sessions/sweeper.py", "sessions/telemetry.py"),
            "sessions/stores/__init__.py",
            *("sessions/stores/batches.py", "sessions/stores/cache.py"),
            *("sessions/stores/cache_uri.py", "sessions/stores/clients.py"),
            *("sessions/stores/cluster.py", "sessions/stores/connection.py"),
            *("sessions/stores/database.py", "sessions/stores/file.py"),
            *("sessions/stores/memory.py", "sessions/stores/threads.py"),
        )
    ),
    *("tests/__init__.py", "tests/conftest.py", "tests/contract.py", "tests/servers.py"),
    *(
        "tests/test_app.py",
        "tests/test_cli.py",
        "tests/test_config.py",
        "tests/test_custom_store.py",
        "tests/test_environments.py",
    ),
    *("tests/test_sessions.py", "tests/test_sessions_command.py", "tests/test_stores.py"),
}


WITH_SERVER = [a for a in ALL if a["session_store"] == "cache" or "_database_url" in a]
HOSTILE = {"session_store": "database", "_database_url": "postgresql://a$b@h:5433/${c}?timeout=1"}


def lint_yaml(project: Path, schema: str, file: str) -> None:
    check = (PYTHON, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}")
    run(project, *check, file)


@pytest.mark.parametrize("answers", ALL, ids=named)
def test_the_project_has_exactly_its_files(bake: Bake, answers: dict[str, str]) -> None:
    needs_server = "cache" in answers.values() or "_database_url" in answers
    config = f"config/{answers.get('environment', 'dev')}.toml"
    expected = FILES | {config} | ({"compose.yaml"} if needs_server else set())
    assert set(read(bake(**answers))) == expected


@pytest.mark.parametrize("answers", ALL, ids=named)
def test_the_answer_is_in_toml_and_the_dependencies_follow(
    bake: Bake, answers: dict[str, str]
) -> None:
    project = bake(**answers)
    environment, store = answers.get("environment", "dev"), answers["session_store"]
    config = tomllib.loads((project / "config" / f"{environment}.toml").read_text())
    places = {"file": {"path": "var/sessions"}, "cache": {"uri": "redis://localhost:6379/0"}}
    assert config["middlewares"]["session"]["store"] == {"type": store} | places.get(store, {})
    assert ("database" in config) == (store == "database")
    assert config.get("debug", False) == (environment == "dev")

    metadata = tomllib.loads((project / "pyproject.toml").read_text())
    extras = metadata["project"]["optional-dependencies"]
    base = set(metadata["project"]["dependencies"])
    for extra, requirements in extras.items():
        assert set(requirements) <= base if extra == store else not set(requirements) & base
    dev = metadata["dependency-groups"]["dev"]
    server = "postgresql" if "_database_url" in answers else "cache" if store == "cache" else None
    included = [line["include-group"] for line in dev if isinstance(line, dict)]
    assert included == ([server] if server else [])


@pytest.mark.parametrize("answers", ALL, ids=named)
def test_no_jinja_of_the_template_is_left(bake: Bake, answers: dict[str, str]) -> None:
    for path, text in read(bake(**answers)).items():
        assert "cookiecutter." not in text, path
        if not path.startswith("src/my_app/templates/") and not path.endswith(".jinja"):
            left = re.findall(r"\{\{.*|\{%.*|\{#.*", text)
            assert left == (["{{ matrix.python }}"] if path.endswith("ci.yml") else []), path
        assert text.endswith("\n"), path
        assert not text.startswith("\n"), path
        assert "\n\n\n\n" not in text, path


def test_the_generated_python_is_the_same_for_every_answer(bake: Bake) -> None:
    def python(answers: dict[str, str]) -> dict[str, str]:
        return {path: text for path, text in read(bake(**answers)).items() if path.endswith(".py")}

    first, *others = [python(answers) for answers in ALL]
    assert all(other == first for other in others)


def test_the_templates_python_holds_no_jinja_but_the_packages_name() -> None:
    for path in TEMPLATE_PROJECT.rglob("*.py"):
        found = re.findall(r"\{\{.*?\}\}|\{%|\{#", path.read_text())
        assert set(found) <= {"{{cookiecutter.package_name}}"}, path


@pytest.mark.parametrize("package", ["a", "a" * 40], ids=["shortest", "longest"])
@pytest.mark.parametrize("answers", COMBINATIONS, ids=named)
def test_the_project_is_clean_at_birth(bake: Bake, answers: dict[str, str], package: str) -> None:
    project = bake(**answers, package_name=package)
    run(project, PYTHON, "-m", "ruff", "check", "--no-cache")
    run(project, PYTHON, "-m", "ruff", "format", "--check", "--no-cache")


@pytest.mark.parametrize("answers", COMBINATIONS, ids=named)
def test_the_project_is_strictly_typed(bake: Bake, answers: dict[str, str]) -> None:
    check_types(bake(**answers))


def test_the_project_is_strictly_typed_without_the_packages_of_other_stores(bake: Bake) -> None:
    project = bake()
    pyproject = project / "pyproject.toml"
    settings = pyproject.read_text().replace(
        "ignore_missing_imports = true", 'ignore_missing_imports = true\nfollow_imports = "skip"'
    )
    pyproject.write_text(settings)
    run(project, PYTHON, "-m", "mypy", "--cache-dir", str(TEMPLATE / ".mypy_cache" / "bare"))


@pytest.mark.parametrize("answers", [*COMBINATIONS, *VARIANTS[:2]], ids=named)
def test_its_own_tests_pass_and_none_is_skipped(bake: Bake, answers: dict[str, str]) -> None:
    run_tests(bake(**answers))


@pytest.mark.parametrize("kinds", [KINDS, GROUPS], ids=["stores", "groups"])
def test_a_project_on_many_stores_passes_its_tests_on_each(
    bake: Bake, kinds: dict[str, dict[str, str]]
) -> None:
    printed = run_tests(project_on(bake, kinds), "-v")
    for kind in kinds:
        assert f"test_create_never_overwrites[{kind}] PASSED" in printed


@pytest.mark.parametrize("answers", COMBINATIONS, ids=named)
def test_the_wheel_holds_all_that_the_app_needs(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    run(project, PYTHON, "-m", "hatchling", "build", "-t", "wheel")
    (wheel,) = (project / "dist").glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {path.removeprefix("src/") for path in FILES if path.startswith("src/")}


@pytest.mark.parametrize("answers", ALL, ids=named)
def test_the_workflow_is_valid_and_runs_what_a_developer_runs(
    bake: Bake, answers: dict[str, str]
) -> None:
    project = bake(**answers)
    lint_yaml(project, "github-workflows", ".github/workflows/ci.yml")
    workflow = yaml.safe_load((project / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": "make check test"}


@pytest.mark.parametrize("answers", [*WITH_SERVER, HOSTILE], ids=named)
def test_compose_runs_replicas_of_the_app_before_its_server(
    bake: Bake, answers: dict[str, str]
) -> None:
    project = bake(**answers)
    lint_yaml(project, "compose-spec", "compose.yaml")
    services = yaml.safe_load((project / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[needed]
    by_itself = [name for name, service in services.items() if "profiles" not in service]
    server = answers["session_store"]
    assert by_itself == [server]

    app = services["app"]
    assert app["build"] == "."
    (ports,) = app["ports"]
    first, last = map(int, re.findall(r"\d{4}", ports)[:2])
    assert app["deploy"] == {"replicas": last - first + 1}
    # The app takes the address that it is given.
    given = {name: value.replace("$$", "$") for name, value in app["environment"].items()}
    environment = answers.get("environment", "dev")
    shown = run(project, PYTHON, "-m", "my_app", "config", "show", environment, "--json", **given)
    (variable,) = given
    key = variable.removeprefix("MY_APP__").replace("__", ".").lower()
    value = json.loads(shown)["values"][key]
    assert value == {"value": given[variable], "source": variable}
    assert f"@{server}/" in value["value"] or f"//{server}:" in value["value"]

    if server == "database":
        created = services[server]["environment"]
        user, name = (
            created[variable].replace("$$", "$") for variable in ("POSTGRES_USER", "POSTGRES_DB")
        )
        assert given[variable] == f"postgresql://{user}@database/{name}"


@pytest.mark.parametrize("answers", ALL, ids=named)
def test_the_dockerfile_is_clean_and_takes_no_secret_along(
    bake: Bake, answers: dict[str, str]
) -> None:
    project = bake(**answers)
    hadolint = str(Path(PYTHON).with_name("hadolint"))
    run(project, hadolint, "--failure-threshold", "style", "Dockerfile")
    steps = dockerfile(project)
    copied = {name for source in steps["COPY"] for name in source.split()[:-1]}
    assert copied == {"config", "pyproject.toml", "README.md", "src"}  # and never .env
    assert steps["USER"] == ["10001"]
    assert steps["ENV"][0].split()[0] == f"MY_APP_ENV={answers.get('environment', 'dev')}"


def test_a_python_that_is_too_old_leaves_no_environment_behind(bake: Bake, tmp_path: Path) -> None:
    """A later one would go on with it."""
    project, old = bake(), tmp_path / "python3.10"
    old.write_text(
        f"""#!/bin/sh
        [ "$1" = -c ] && exec {PYTHON} -c "import sys; sys.version_info = (3, 10); $2"
        exec {PYTHON} "$@"
        """
    )
    old.chmod(0o755)
    assert "Python 3.11 or newer" in run(project, "make", "run", f"PYTHON={old}", status=2)
    assert not (project / ".venv").exists()


def test_a_new_machine_needs_only_the_two_commands(bake: Bake, tmp_path: Path) -> None:
    """And a project on memory installs nothing of the other stores."""
    project = bake()
    python = f"PYTHON={Path(sys.base_prefix, 'bin', 'python3')}"
    printed = run(project, "make", "check", "test", python, PYTHONPATH="", HOME=str(tmp_path))
    assert re.search(r"\d+ passed in ", printed), printed
    installed = run(project, ".venv/bin/python", "-m", "pip", "list", PYTHONPATH="").lower()
    for package in ("redis", "sqlalchemy", "alembic", "valkey", "asyncpg"):
        assert package not in installed
    store = "MY_APP__MIDDLEWARES__SESSION__STORE__"
    cache = {f"{store}TYPE": "cache", f"{store}URI": "redis://localhost"}
    refused = run(project, ".venv/bin/my-app", "run", status=2, **cache)
    assert "pip install -e '.[cache]' in the project's folder" in refused

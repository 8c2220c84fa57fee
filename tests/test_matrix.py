"""Every combination of answers gives a project that is whole, clean, and passes its own tests."""

from __future__ import annotations

import json
import re
import sys
import tomllib
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from .conftest import (
    COMBINATIONS,
    ENGINE,
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

ENGINE_FILES = {
    f"src/serversessions/{path.relative_to(ENGINE / 'src' / 'serversessions')}"
    for path in (ENGINE / "src" / "serversessions").rglob("*")
    if path.is_file() and path.parent.name != "__pycache__"
} | {"src/serversessions/README.md", "src/serversessions/LICENSE"}
OWN_FILES = {
    *(".cookiecutterrc", ".env.example", ".github/dependabot.yml", ".github/workflows/ci.yml"),
    *(".gitignore", ".pre-commit-config.yaml", "BUILD.md", "Dockerfile", "Makefile"),
    *("README.md", "config/environment.toml.jinja", "pyproject.toml"),
    *("src/my_app/__init__.py", "src/my_app/__main__.py", "src/my_app/app.py"),
    *("src/my_app/cli.py", "src/my_app/config.py", "src/my_app/pages.py"),
    *("src/my_app/migrations/env.py", "src/my_app/migrations/script.py.mako"),
    "src/my_app/migrations/versions/0001_sessions.py",
    *("src/my_app/static/style.css", "src/my_app/templates/base.html"),
    *("src/my_app/templates/devices.html", "src/my_app/templates/home.html"),
    "src/my_app/templates/time.html",
    *("tests/__init__.py", "tests/conftest.py", "tests/test_app.py", "tests/test_pages.py"),
    "tests/test_store.py",
}
FILES = ENGINE_FILES | OWN_FILES

WITH_SERVER = [a for a in ALL if a["session_store"] == "cache" or "_database_url" in a]
WITHOUT_COMPOSE = {  # a server that compose.yaml has not is the owner's
    "sentinel": {"session_store": "cache", "_cache_uri": "redis+sentinel://localhost/app"},
    "tls": {"session_store": "cache", "_cache_uri": "rediss://localhost:6380/0"},
}
HOSTILE = {"session_store": "database", "_database_url": "postgresql://a$b@h:5433/${c}?timeout=1"}


def lint_yaml(project: Path, schema: str, file: str) -> None:
    check = (PYTHON, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}")
    run(project, *check, file)


@pytest.mark.parametrize("answers", ALL, ids=named)
def test_the_project_has_exactly_its_files(born: Bake, answers: dict[str, str]) -> None:
    needs_server = "cache" in answers.values() or "_database_url" in answers
    config = f"config/{answers.get('environment', 'dev')}.toml"
    expected = FILES | {config} | ({"compose.yaml"} if needs_server else set())
    assert set(read(born(**answers))) == expected


@pytest.mark.parametrize("answers", ALL, ids=named)
def test_the_answer_is_in_toml_and_the_dependencies_follow(
    born: Bake, answers: dict[str, str]
) -> None:
    project = born(**answers)
    environment, store = answers.get("environment", "dev"), answers["session_store"]
    config = tomllib.loads((project / "config" / f"{environment}.toml").read_text())
    places = {"file": {"path": "var/sessions"}, "cache": {"uri": "redis://localhost:6379/0"}}
    assert config["middlewares"]["session"]["store"] == {"type": store} | places.get(store, {})
    assert config["middlewares"]["session"]["exclude"] == ["/static"]
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
def test_no_jinja_of_the_template_is_left(born: Bake, answers: dict[str, str]) -> None:
    for path, text in read(born(**answers)).items():
        if path in ENGINE_FILES:
            continue
        assert "cookiecutter." not in text, path
        if not path.startswith("src/my_app/templates/") and not path.endswith(".jinja"):
            left = re.findall(r"\{\{.*|\{%.*|\{#.*", text)
            assert left == (["{{ matrix.python }}"] if path.endswith("ci.yml") else []), path
        assert text.endswith("\n") or not text, path
        assert not text.startswith("\n"), path
        assert "\n\n\n\n" not in text, path


def test_the_generated_python_is_the_same_for_every_answer(born: Bake) -> None:
    def python(answers: dict[str, str]) -> dict[str, str]:
        return {path: text for path, text in read(born(**answers)).items() if path.endswith(".py")}

    first, *others = [python(answers) for answers in ALL]
    assert all(other == first for other in others)


def test_the_templates_python_holds_no_jinja_but_the_packages_name() -> None:
    for path in TEMPLATE_PROJECT.rglob("*.py"):
        found = re.findall(r"\{\{.*?\}\}|\{%|\{#", path.read_text())
        assert set(found) <= {"{{cookiecutter.package_name}}"}, path


@pytest.mark.parametrize("package", ["a", "a" * 40], ids=["shortest", "longest"])
@pytest.mark.parametrize("answers", COMBINATIONS, ids=named)
def test_the_project_is_clean_at_birth(born: Bake, answers: dict[str, str], package: str) -> None:
    project = born(**answers, package_name=package)
    run(project, PYTHON, "-m", "ruff", "check", "--no-cache")
    run(project, PYTHON, "-m", "ruff", "format", "--check", "--no-cache")


def test_the_project_is_strictly_typed(born: Bake) -> None:
    """One is: the Python is the same for every answer."""
    check_types(born())


def test_the_project_is_strictly_typed_without_the_packages_of_other_stores(bake: Bake) -> None:
    project = bake()
    pyproject = project / "pyproject.toml"
    settings = pyproject.read_text().replace(
        "ignore_missing_imports = true", 'ignore_missing_imports = true\nfollow_imports = "skip"'
    )
    pyproject.write_text(settings)
    run(project, PYTHON, "-m", "mypy", "--cache-dir", str(TEMPLATE / ".mypy_cache" / "bare"))


def test_the_skeleton_stays_small(born: Bake) -> None:
    project = born()

    def lines(folder: str) -> int:
        files = (project / folder).rglob("*.py")
        return sum(len(path.read_text().splitlines()) for path in files)

    assert lines("src/my_app") < 450
    assert lines("tests") < 400


def test_the_project_depends_on_what_the_engine_does(born: Bake) -> None:
    engine = tomllib.loads((ENGINE / "pyproject.toml").read_text())["project"]
    project = tomllib.loads((born() / "pyproject.toml").read_text())["project"]
    extras = engine["optional-dependencies"]
    assert set(engine["dependencies"] + extras.pop("command")) <= set(project["dependencies"])
    assert project["optional-dependencies"] == extras


def test_the_variables_are_those_of_the_configuration(born: Bake) -> None:
    project = born(project_slug="shop", package_name="shop")
    printed = run(project, PYTHON, "-m", "shop", "config", "variables")
    assert (project / ".env.example").read_text() == printed


@pytest.mark.parametrize("answers", WITHOUT_COMPOSE.values(), ids=WITHOUT_COMPOSE)
def test_there_is_no_compose_file_for_a_server_that_it_does_not_bring(
    born: Bake, answers: dict[str, str]
) -> None:
    assert not (born(**answers) / "compose.yaml").exists()


def test_the_published_port_is_the_one_of_the_url(born: Bake) -> None:
    cache = born(session_store="cache", _cache_uri="redis://localhost:6380/0")
    database = born(session_store="database", _database_url="postgresql://localhost:5433/app")
    assert '"127.0.0.1:6380:6379"' in (cache / "compose.yaml").read_text()
    assert '"127.0.0.1:5433:5432"' in (database / "compose.yaml").read_text()


@pytest.mark.parametrize("answers", [*COMBINATIONS, *VARIANTS[:2]], ids=named)
def test_its_own_tests_pass_and_none_is_skipped(bake: Bake, answers: dict[str, str]) -> None:
    run_tests(bake(**answers))


@pytest.mark.parametrize("kinds", [KINDS, GROUPS], ids=["stores", "groups"])
def test_a_project_on_many_stores_proves_each(bake: Bake, kinds: dict[str, dict[str, str]]) -> None:
    printed = run_tests(project_on(bake, kinds), "-v", "-k", "restart or never_overwrites")
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
    born: Bake, answers: dict[str, str]
) -> None:
    project = born(**answers)
    lint_yaml(project, "github-workflows", ".github/workflows/ci.yml")
    lint_yaml(project, "dependabot", ".github/dependabot.yml")
    workflow = yaml.safe_load((project / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": "make check test"}


@pytest.mark.parametrize("answers", [*WITH_SERVER, HOSTILE], ids=named)
def test_compose_runs_replicas_of_the_app_before_its_server(
    born: Bake, answers: dict[str, str]
) -> None:
    project = born(**answers)
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
    assert given.pop("MY_APP_ENV").startswith("${MY_APP_ENV:?")
    shown = run(project, PYTHON, "-m", "my_app", "config", "show", environment, "--json", **given)
    shared = {"MY_APP__MIDDLEWARES__SESSION__STORE__TYPE", "PGPASSWORD"}
    (variable,) = given.keys() - shared
    key = variable.removeprefix("MY_APP__").replace("__", ".").lower()
    value = json.loads(shown)["values"][key]
    assert value == {"value": given[variable], "source": variable}
    assert f"@{server}/" in value["value"] or f"//{server}:" in value["value"]

    if server == "database":
        created = services[server]["environment"]
        user, name = (
            created[variable].replace("$$", "$") for variable in ("POSTGRES_USER", "POSTGRES_DB")
        )
        assert given[variable] == f"postgresql://{quote(user)}@database/{quote(name)}"
        assert created["POSTGRES_PASSWORD"].startswith("${PGPASSWORD:?")
        assert "trust" not in (project / "compose.yaml").read_text()


@pytest.mark.parametrize("answers", ALL, ids=named)
def test_the_dockerfile_is_clean_and_takes_no_secret_along(
    born: Bake, answers: dict[str, str]
) -> None:
    project = born(**answers)
    hadolint = str(Path(PYTHON).with_name("hadolint"))
    run(project, hadolint, "--failure-threshold", "style", "Dockerfile")
    steps = dockerfile(project)
    copied = {name for source in steps["COPY"] for name in source.split()[:-1]}
    # And never .env. An image has constraints.txt if the project has.
    assert copied == {"config", "constraints.tx[t]", "pyproject.toml", "README.md", "src"}
    assert steps["USER"] == ["10001"]
    assert not any("MY_APP" in line for line in steps["ENV"])  # it is named when it is run


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
    """And a project on files installs nothing of the other stores, and nothing twice."""
    project = bake()
    python = f"PYTHON={Path(sys.base_prefix, 'bin', 'python3')}"
    printed = run(project, "make", "check", "test", python, PYTHONPATH="", HOME=str(tmp_path))
    assert re.search(r"\d+ passed in ", printed), printed
    installed = run(project, ".venv/bin/python", "-m", "pip", "list", PYTHONPATH="").lower()
    for package in ("redis", "sqlalchemy", "alembic", "valkey", "asyncpg"):
        assert package not in installed
    with (project / "pyproject.toml").open("a") as pyproject:
        pyproject.write("\n[tool.mine]\n")
    (project / "config" / "dev.toml").touch()
    assert "Installing" not in run(project, "make", "check", python, PYTHONPATH="")
    store = "MY_APP__MIDDLEWARES__SESSION__STORE__"
    cache = {f"{store}TYPE": "cache", f"{store}URI": "redis://localhost"}
    refused = run(project, ".venv/bin/my-app", "run", status=2, **cache)
    assert "Run: .venv/bin/pip install --editable '.[cache]'" in refused

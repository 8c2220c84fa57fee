"""``config``: new environments, moves between stores, what is set, checks before a deploy."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from serversessions.cli import create_command, questions
from serversessions.config import ProjectConfig, Table
from serversessions.config.editing import set_table

from .project import PREFIX, invoke, project, read, write
from .sample.cli import main
from .sample.config import AppConfig

__all__ = ["project"]  # pytest finds the fixture by its name

STORE = ("middlewares", "session", "store")
LOCATED = {"memory": [], "file": ["--path", "var/s"], "cache": ["--uri", "redis://h:1/0"]} | {
    "database": ["--url", "sqlite:///var/x.db"]
}
KEPT = """\
# by hand
debug = true  # for now

[middlewares.session]
secure=false
exclude = [
    "/static",  # files
]

# where they live
[middlewares.session.store]  # the table
  type = 'file'  # chosen
  # a thought
  path = "var/old"  # the old place

[database]   # kept
url = "sqlite:///var/mine.db"
"""


@pytest.fixture(autouse=True)
def development(project: Path) -> None:
    """An environment ``dev``, beside which the commands work."""
    write("dev", "debug = true\n")


def stamp(environment: str) -> tuple[int, int]:
    """What tells a file from one that was written anew."""
    status = Path("config", f"{environment}.toml").stat()
    return status.st_ino, status.st_mtime_ns


def config(*arguments: str, answers: str = "", status: int = 0) -> str:
    """What ``config`` says, all of it."""
    return invoke("config", *arguments, answers=answers, status=status).output


def store_of(environment: str) -> dict[str, str]:
    store: dict[str, str] = tomllib.loads(read(environment))["middlewares"]["session"]["store"]
    return store


class BankConfig(Table):
    account: str


class NeedyConfig(ProjectConfig):
    app_name = "needy"
    bank: BankConfig


class TestAdvice:
    """It can be pasted, however the project is used."""

    def test_it_names_pip_where_the_project_is_used_with_pip(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_redis(monkeypatch)
        said = config("set-store", "dev", "--store", "cache", "--uri", "redis://h")
        assert "  pip install --editable '.[cache]' --group cache\n" in said
        assert "  app run --env dev\n" in said

    def test_it_names_uv_where_the_project_is_used_with_uv(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_redis(monkeypatch)
        Path("uv.lock").touch()
        said = config("set-store", "dev", "--store", "cache", "--uri", "redis://h")
        assert "  uv sync --inexact --extra cache --group cache\n" in said
        assert "  uv run app run --env dev\n" in said
        assert "Run: uv sync --inexact --extra cache" in invoke("run", status=2).output

    def test_it_names_uv_where_uv_made_the_environment(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_redis(monkeypatch)
        (project / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.9.1\n")
        said = config("set-store", "dev", "--store", "cache", "--uri", "redis://h")
        assert "  uv sync --inexact --extra cache --group cache\n" in said

    def test_it_names_make_where_that_does_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_redis(monkeypatch)
        Path("Makefile").touch()
        said = config("set-store", "dev", "--store", "cache", "--uri", "redis://h")
        assert "'.[cache]' --group cache  # make does it by itself\n" in said

    def test_without_the_projects_extra_it_names_the_librarys(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_redis(monkeypatch)
        Path("pyproject.toml").unlink()
        said = config("set-store", "dev", "--store", "cache", "--uri", "redis://h")
        assert "  pip install 'serversessions[cache]'\n" in said


def without_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python find no package ``redis``."""
    for module in list(sys.modules):
        if module.startswith("serversessions.stores.redis"):
            monkeypatch.delitem(sys.modules, module)
        elif module.startswith("redis."):
            monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "redis", None)


class TestNew:
    @pytest.mark.parametrize("store", LOCATED)
    def test_flags_say_it_all(self, store: str) -> None:
        said = config("new", "prod", "--store", store, *LOCATED[store], "--yes")
        assert said.startswith("Wrote config/prod.toml. Sessions live in ")
        assert "app run --env prod" in said
        assert AppConfig.load("prod").middlewares.session.store.type == store

    def test_it_asks_what_the_store_needs_and_no_more(self) -> None:
        number = list(questions.STORES).index("file") + 1
        said = config("new", "prod", answers=f"{number}\nvar/mine\n")
        assert all(label in said for label in questions.STORES.values())
        assert questions.LOCATIONS["path"] in said
        assert questions.LOCATIONS["uri"] not in said
        assert store_of("prod") == {"type": "file", "path": "var/mine"}

    def test_without_an_answer_nothing_is_written(self) -> None:
        assert "Without a terminal, give --store" in config("new", "prod", status=2)
        assert not Path("config/prod.toml").exists()

    def test_twice_is_as_once(self) -> None:
        config("new", "prod", "--store", "file", "--yes")
        before = stamp("prod")
        assert "No change: config/" in config("new", "prod", "--store", "file", "--yes")
        assert stamp("prod") == before

    def test_nothing_is_overwritten(self) -> None:
        said = config("new", "dev", "--store", "file", "--yes", status=2)
        assert "never overwritten" in said
        assert "app config set-store dev" in said
        assert read("dev") == "debug = true\n"

    @pytest.mark.parametrize("content", [b"", b"\xff", "a directory", "a link to itself"])
    def test_whatever_is_there_stays(self, content: bytes | str) -> None:
        path = Path("config/prod.toml")
        match content:
            case bytes():
                path.write_bytes(content)
            case "a directory":
                path.mkdir()
            case _:
                path.symlink_to(path.name)
        before = path.lstat().st_ino, path.lstat().st_mtime_ns
        done = CliRunner().invoke(main, ["config", "new", "prod", "--store", "file", "--yes"])
        assert done.output.startswith("Error: config/prod.toml")
        assert (path.lstat().st_ino, path.lstat().st_mtime_ns) == before

    def test_elsewhere_than_in_a_project_it_says_so(self, project: Path) -> None:
        shutil.rmtree(project / "config")
        said = config("new", "prod", "--store", "file", "--yes", status=2)
        assert "run this in the project's folder" in said

    def test_a_dry_run_shows_a_diff_and_writes_nothing(self) -> None:
        said = config("new", "prod", "--store", "file", "--yes", "--dry-run")
        assert '+type = "file"\n' in said
        assert not Path("config/prod.toml").exists()

    @pytest.mark.parametrize("name", ["../x", "a/b", "", "x" * 300, ".", "a b", "-x", "é"])
    def test_a_name_that_is_not_plain_is_refused(self, name: str) -> None:
        config("new", "--store", "file", "--yes", "--", name, status=2)
        assert {str(file) for file in Path().rglob("*.toml")} == {
            "config/dev.toml",
            "pyproject.toml",
        }

    @pytest.mark.parametrize(
        "uri", ["redis://:s3cret@h/0", "redis://:s3cret/1@h/0", "redis://s3cret@h/0"]
    )
    def test_a_password_is_refused_and_its_variable_named(self, uri: str) -> None:
        said = config("new", "prod", "--store", "cache", "--uri", uri, status=2)
        assert f"{PREFIX}MIDDLEWARES__SESSION__STORE__URI_FILE" in said
        assert "s3cret" not in said

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--store", "file", "--uri", "redis://h"], "--uri does not go with the file store"),
            (["--store", "cache", "--uri", "nosql://h"], "allowed schemes: "),
            (["--store", "cache", "--uri", "x"], "allowed: a URL"),
            (["--store", "file", "--path", "a\nb"], "allowed: text without control characters"),
            (["--store", "redis"], "'redis' is not one of"),
        ],
    )
    def test_a_place_that_no_store_can_read_is_refused(
        self, arguments: list[str], says: str
    ) -> None:
        assert says in config("new", "prod", *arguments, "--yes", status=2)
        assert not Path("config/prod.toml").exists()

    def test_it_is_rendered_from_the_projects_own_template(self) -> None:
        template = Path("config/environment.toml.jinja")
        template.write_text(
            template.read_text() + '[mail]\nhost = "{{ environment }}.example.org"\n'
        )
        config("new", "prod", "--store", "memory")
        assert AppConfig.load("prod").mail.host == "prod.example.org"

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (None, "no such file in "),
            (b"{% if %}", "can't be rendered: Expected an expression"),
            (b"a\n{{ nothing }}", "can't be rendered: 'nothing' is undefined"),
            (b"\xff", "can't be read: it is not UTF-8 text"),
        ],
    )
    def test_a_template_that_is_missing_or_broken_is_told(
        self, content: bytes | None, says: str
    ) -> None:
        template = Path("config/environment.toml.jinja")
        template.unlink()
        if content is not None:
            template.write_bytes(content)
        said = config("new", "prod", "--store", "memory", status=2)
        assert said.startswith(f"Error: {template}: {says}")
        assert not Path("config/prod.toml").exists()

    def test_what_is_required_and_not_set_is_named(self) -> None:
        done = CliRunner().invoke(
            create_command(NeedyConfig, app="x:y"),
            ["config", "new", "prod", "--store", "memory"],
            prog_name="app",
        )
        assert done.exit_code == 0, done.output
        assert (
            "Missing: bank.account. Add it to config/prod.toml and to"
            " config/environment.toml.jinja, or set NEEDY__BANK__ACCOUNT.\n"
        ) in done.output
        assert Path("config/prod.toml").exists()

    def test_what_other_environments_set_beside_is_named(self) -> None:
        write("dev", 'debug = true\nmail.host = "h"\n[mail.log]\nfile = "x"')
        said = config("new", "prod", "--store", "memory")
        assert (
            "config/dev.toml also sets mail.host, mail.log.file: add here what prod needs." in said
        )

    @pytest.mark.parametrize("path", ['a"b', "a\\b", "49", "ü 😀", "#", "'"])
    def test_any_path_arrives_as_it_is(self, path: str) -> None:
        config("new", "prod", "--store", "file", "--path", path)
        assert store_of("prod")["path"] == path


class TestSetStore:
    @pytest.mark.parametrize("store", LOCATED)
    def test_the_table_is_replaced_and_nothing_else(self, store: str) -> None:
        write("dev", KEPT)
        config("set-store", "dev", "--store", store, *LOCATED[store], "--yes")
        expected = {"type": store} | dict([LOCATED[store][:]] if store in ("file", "cache") else [])
        expected = {key.removeprefix("--"): value for key, value in expected.items()}
        assert store_of("dev") == expected
        kept = [line for line in KEPT.splitlines() if "type" not in line and "path" not in line]
        if store == "database":
            kept = [line for line in kept if "sqlite" not in line]
        left = iter(read("dev").splitlines())
        assert all(line in left for line in kept)  # in their order

    def test_comments_beside_keys_that_stay_stay(self) -> None:
        write("dev", KEPT)
        config("set-store", "dev", "--store", "file", "--path", "var/new")
        assert read("dev") == KEPT.replace("var/old", "var/new")

    def test_the_shared_database_is_used_where_there_is_one(self) -> None:
        write("dev", KEPT)
        config("set-store", "dev", "--store", "database")
        assert 'url = "sqlite:///var/mine.db"' in read("dev")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "debug = true",
            '[middlewares.session]\nstore = { type = "file", path = "x" }  # c\nname = "b"\n',
            '[middlewares.session]\nstore.type = "file"\nstore.path = "x"\nname = "b"\n',
            '[middlewares]\nsession = { name = "b" }\n',
            'middlewares.session.store.type = "file"\nmiddlewares.session.store.path = "x"\n',
            '["middlewares"."session".store]\n"path" = \'x\'\ntype = "file"\n[cache]\nurl="a://b"\n',
            'debug = true\r\n[middlewares.session.store]\r\ntype = "file"\r\npath = "x"\r\n# end',
            '[middlewares.session.store]\ntype = "memory"\n[middlewares.session]\nname = "b"',
            '["mi\\u0064dlewares".session]\n"stor\\u0065"."t\\u0079pe" = "file" # c\nname = "b"\n',
        ],
    )
    def test_it_reads_every_way_to_write_a_table(self, text: str) -> None:
        write("dev", text)
        config("set-store", "dev", "--store", "cache", "--uri", "redis://h")
        store = {"type": "cache", "uri": "redis://h"}
        before, after = tomllib.loads(text), tomllib.loads(read("dev"))
        before.setdefault("middlewares", {}).setdefault("session", {})["store"] = store
        assert after == before
        assert ("\r\n" in text) == ("\r\n" in read("dev"))
        assert read("dev").count("\r\n") in (0, read("dev").count("\n"))

    def test_twice_is_as_once(self) -> None:
        arguments = ("set-store", "dev", "--store", "file", "--path", "var/new")
        config(*arguments)
        before = stamp("dev")
        assert "No change: config/" in config(*arguments)
        assert stamp("dev") == before

    def test_a_dry_run_shows_no_password_that_is_in_the_file(self) -> None:
        write("dev", 'debug = true\n[cache]\nurl = "redis://:s3cret@h/0"\n')
        said = config("set-store", "dev", "--store", "cache", "--dry-run")
        assert '+type = "cache"\n' in said
        assert "s3cret" not in said

    def test_it_says_which_variable_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        variable = f"{PREFIX}MIDDLEWARES__SESSION__STORE__TYPE"
        monkeypatch.setenv(variable, "memory")
        said = config("set-store", "dev", "--store", "file", "--yes")
        assert f"{variable} is set here, and wins over the file" in said

    def test_a_shared_cache_may_be_named_by_a_variable(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(f"{PREFIX}CACHE__URL", "redis://h")
        config("set-store", "dev", "--store", "cache")
        assert store_of("dev") == {"type": "cache"}

    def test_it_says_that_a_shared_database_comes_from_a_variable(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(f"{PREFIX}DATABASE__URL", "sqlite:///x.db")
        said = config("set-store", "dev", "--store", "database")
        assert "The file has no database.url: it comes from MY_APP__DATABASE__URL, which" in said

    @pytest.mark.parametrize(
        "text",
        [
            f"[middlewares.session]\nmax_size = 0x{'f' * 5000}",
            f"x = {'9' * 5000}",
            f"[mail]\nport = {2**63}",
        ],
    )
    def test_a_number_too_long_for_toml_is_told_and_left(self, text: str) -> None:
        write("dev", text)
        said = config("set-store", "dev", "--store", "memory", status=2)
        assert said.startswith("Error: config/dev.toml: ")
        assert said.count("\n") == 1
        assert read("dev") == text

    def test_it_says_that_sessions_are_not_moved(self) -> None:
        assert "every visitor begins a new one" in config(
            "set-store", "dev", "--store", "file", "--yes"
        )

    def test_toml_that_is_malformed_is_told_by_line_and_column_and_left(self) -> None:
        write("dev", "debug = true\nsecure == 1\n")
        said = config("set-store", "dev", "--store", "file", "--yes", status=2)
        assert "config/dev.toml: not valid TOML: Invalid value (at line 2, column 9)" in said
        assert read("dev") == "debug = true\nsecure == 1\n"

    def test_what_would_be_wrong_is_not_written(self) -> None:
        write("dev", "colour = 1\n")
        assert "colour: unknown key" in config(
            "set-store", "dev", "--store", "file", "--yes", status=2
        )
        assert read("dev") == "colour = 1\n"

    @pytest.mark.parametrize(
        ("text", "finding"),
        [
            ("middlewares = 1", "middlewares: found 1; allowed: a table"),
            ("[[middlewares]]", "middlewares: found [{}]; allowed: a table"),
            ("middlewares.session = 'x'", 'middlewares.session: found "x"; allowed: a table'),
            ("database = 1", "database: found 1; allowed: a table"),
        ],
    )
    def test_what_is_no_table_is_told_and_left(self, text: str, finding: str) -> None:
        write("dev", text)
        said = config("set-store", "dev", "--store", "database", "--yes", status=2)
        assert f"config/dev.toml: {finding}" in said
        assert read("dev") == text

    def test_a_file_that_is_wrong_in_its_store_alone_is_mended(self) -> None:
        write("dev", '[middlewares.session.store]\ntype = "file"\nurl = "x"\n')
        config("set-store", "dev", "--store", "memory")
        assert read("dev") == '[middlewares.session.store]\ntype = "memory"\n'

    def test_its_permissions_and_a_link_to_it_stay(self, project: Path) -> None:
        real = project / "elsewhere.toml"
        real.write_text("debug = true\n")
        real.chmod(0o640)
        Path("config/dev.toml").unlink()
        Path("config/dev.toml").symlink_to(real)
        config("set-store", "dev", "--store", "file", "--yes")
        assert Path("config/dev.toml").is_symlink()
        assert real.stat().st_mode & 0o777 == 0o640
        assert "file" in real.read_text()

    def test_a_file_that_cannot_be_replaced_is_as_it_was(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def is_full(file: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", is_full)
        said = config("set-store", "dev", "--store", "file", "--yes", status=1)
        assert "config/dev.toml: No space left on device; nothing was changed" in said
        assert read("dev") == "debug = true\n"
        assert sorted(os.listdir("config")) == ["dev.toml", "environment.toml.jinja"]


class TestShow:
    @pytest.fixture(autouse=True)
    def shown(self, development: None, monkeypatch: pytest.MonkeyPatch) -> None:
        write(
            "dev",
            'debug = true\n[middlewares.session]\nexpiry = "90m"\n[mail]\npassword = "s3cret"\n'
            'tokens = ["s3cret"]\nlog_file = "x"\ntimeout = "5s"\n',
        )
        monkeypatch.setenv(f"{PREFIX}CACHE__URL", "redis://:s3cret@h/0")

    def test_each_value_has_its_source(self) -> None:
        lines = [line.split() for line in config("show", "dev").splitlines()]
        assert ["debug", "true", "config/dev.toml"] in lines
        assert ["cache.url", '"redis://:***@h/0"', f"{PREFIX}CACHE__URL"] in lines
        assert ["middlewares.session.expiry", '"1h30m"', "config/dev.toml"] in lines
        assert ["middlewares.session.secure", "true", "default"] in lines
        assert ["mail.password", '"***"', "config/dev.toml"] in lines
        assert ["mail.tokens", '["***"]', "config/dev.toml"] in lines
        assert ["mail.log_file", '"x"', "config/dev.toml"] in lines
        assert ["mail.timeout", '"5s"', "config/dev.toml"] in lines

    def test_as_toml_it_can_be_read(self) -> None:
        said = config("show", "dev", "--toml")
        assert tomllib.loads(said)["middlewares"]["session"]["expiry"] == "1h30m"
        assert "debug = true # config/dev.toml\n" in said
        assert "s3cret" not in said

    def test_what_dotenv_sets_is_marked(self) -> None:
        Path(".env").write_text(f"{PREFIX}MAIL__HOST=h\n{PREFIX}CACHE__URL=redis://other\n")
        lines = [line.split() for line in config("show", "dev").splitlines()]
        assert ["mail.host", '"h"', f"{PREFIX}MAIL__HOST", "(.env)"] in lines
        assert ["cache.url", '"redis://:***@h/0"', f"{PREFIX}CACHE__URL"] in lines

    def test_as_json_it_can_be_read(self) -> None:
        said = config("show", "dev", "--json")
        assert "s3cret" not in said
        source = f"{PREFIX}CACHE__URL"
        assert json.loads(said)["values"]["cache.url"] == {
            "value": "redis://:***@h/0",
            "source": source,
        }


DEPLOYED = """\
allowed_hosts = ["example.org"]
middlewares.session.max_lifetime = "30d"
middlewares.session.store = { type = "cache", uri = "redis://h" }
"""


class TestCheck:
    def check(self, text: str, *arguments: str, status: int = 1) -> str:
        write("dev", text)
        return config("check", "dev", *arguments, status=status)

    def test_what_is_right_is_said_in_a_line(self) -> None:
        said = self.check(DEPLOYED, "--offline", status=0)
        assert said == (
            "config/dev.toml: ok: cache: redis://h\n1 checked: no errors, no warnings, no notes\n"
        )

    def test_debug_is_for_ones_own_machine_and_all_the_rest_is_told_as_well(self) -> None:
        said = self.check("debug = true\n[middlewares.session]\nsecure = false", status=0)
        assert said.startswith("config/dev.toml: ok: memory\n")
        for finding in (
            "debug: true: for your own machine alone",
            "middlewares.session.secure: false: ",
            "middlewares.session.store.type: memory: sessions end with the process",
            "middlewares.session.max_lifetime: none",
            "allowed_hosts: any",
        ):
            assert f"config/dev.toml: note: {finding}" in said
        assert said.endswith("1 checked: no errors, no warnings, 5 notes\n")

    @pytest.mark.parametrize("store", LOCATED)
    def test_of_what_config_new_writes_the_hosts_alone_are_asked_for(self, store: str) -> None:
        config("new", "prod", "--store", store, *LOCATED[store], "--yes")
        said = config("check", "prod", "--offline")
        assert "warning: allowed_hosts: any" in said
        expected = {"file": "temporary", "database": "temporary", "memory": "end with the process"}
        warnings = [line for line in said.splitlines() if ": warning: " in line]
        assert len(warnings) == (2 if store in expected else 1)
        assert expected.get(store, "") in said

    @pytest.mark.parametrize(
        ("url", "is_warned"),
        [
            ("postgresql://u@db.example.org/x", True),
            ("postgresql://u@db.example.org/x?sslmode=require", True),
            ("postgresql://localhost,10.0.0.1:5433/x", True),
            ("postgresql://u@db.example.org/x?sslmode=verify-full&sslrootcert=ca.pem", False),
            ("postgresql://localhost/x", False),
            ("postgresql://127.0.0.1:5433/x", False),
            ("postgresql://[::1]:5433/x", False),
            ("postgresql:///x?host=/run/postgresql", False),
            ("sqlite:///var/app.db", False),
        ],
    )
    def test_a_database_elsewhere_has_to_prove_who_it_is(self, url: str, is_warned: bool) -> None:
        said = self.check(f'{DEPLOYED}\n[database]\nurl = "{url}"', "--offline", status=0)
        assert ("without proving that it is that server" in said) == is_warned

    def test_all_environments_are_checked_unless_some_are_named(self) -> None:
        write("prod", "debug = 1")
        Path("config/.#dev.toml").symlink_to("ada@host.1")  # while an editor has it open
        said = config("check", status=1)
        assert "config/dev.toml: ok" in said
        assert "config/prod.toml: error: debug: found 1; allowed: true or false" in said
        assert config("check", "dev").endswith("1 checked: no errors, no warnings, 4 notes\n")

    @pytest.mark.parametrize(
        ("text", "finding"),
        [
            ("a = ", "error: not valid TOML: Invalid value (at line 1, column 5, the end)"),
            ("debgu = true", "error: debgu: unknown key; did you mean 'debug'?"),
            ('[middlewares.session]\nsame_site = "none"\nsecure = false', "needs secure = true"),
            ('[middlewares.session]\nname = "__Host-x"\npath = "/a"', 'needs path = "/"'),
            ("[middlewares.session]\nsecure = false", "secure: found false; allowed: true"),
            ("[middlewares.session]\nexpiry = 2020-01-01T00:00:00Z", "is over: no session"),
        ],
    )
    def test_what_the_file_says_wrong(self, text: str, finding: str) -> None:
        assert finding in self.check(text, "--offline")

    @pytest.mark.parametrize(
        ("text", "finding"),
        [
            ("", "warning: middlewares.session.store.type: memory: sessions end with the process"),
            ("", "warning: middlewares.session.max_lifetime: none"),
            ("", "warning: allowed_hosts: any: redirects and links repeat whatever host a"),
            ('[cache]\nurl = "redis://:s3cret@h"', "warning: cache.url: the file holds a password"),
            ('[cache]\nurl = "redis://s3cret@h"', "warning: cache.url: the file holds a password"),
        ],
    )
    def test_what_is_unwise_is_a_warning_alone(self, text: str, finding: str) -> None:
        said = self.check(text, "--offline", status=0)
        assert finding in said
        assert "s3cret" not in said

    def test_memory_with_several_workers_is_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEB_CONCURRENCY", "²")
        assert "WEB_CONCURRENCY" not in config("check", "dev")
        monkeypatch.setenv("WEB_CONCURRENCY", "4")
        assert "each worker would have sessions of its own" in self.check("debug = true")

    def test_a_temporary_file_system_is_a_warning(self, project: Path) -> None:
        folder = "/dev/shm" if Path("/dev/shm").exists() else str(project)
        text = f'[middlewares.session.store]\ntype = "file"\npath = "{folder}/x"'
        assert "gone after a reboot" in self.check(text, "--offline", status=0)

    def test_a_folder_that_is_none_is_wrong_and_said_to_be_once(self) -> None:
        text = '[middlewares.session.store]\ntype = "file"\npath = "config/dev.toml"'
        said = self.check(text)
        assert "config/dev.toml is not a folder" in said
        assert said.count("error: ") == 1

    @pytest.mark.parametrize("path", ["loop/x", "x" * 300])
    def test_a_folder_that_cannot_be_is_wrong_and_the_next_one_is_checked(self, path: str) -> None:
        Path("loop").symlink_to("loop")
        write("a", f'[middlewares.session.store]\ntype = "file"\npath = "{path}"')
        said = config("check", "a", "dev", status=1)
        assert "config/a.toml: error: middlewares.session.store.path: " in said
        assert "config/dev.toml: ok" in said

    def test_a_read_only_file_system_is_wrong(self) -> None:
        text = '[middlewares.session.store]\ntype = "file"\npath = "/proc/sessions"'
        assert "error: middlewares.session.store" in self.check(text)

    def test_each_store_keeps_a_throw_away_session(
        self, place: tuple[str, str], checked: Callable[[str, str], str]
    ) -> None:
        said = checked(*place)
        assert "no errors" in said

    @pytest.mark.parametrize(
        ("places", "finding"),
        [
            (
                {
                    "file": "config/dev.toml",
                    "cache": "redis://:s3cret@127.0.0.1:1",
                    "sqlite": "sqlite:///config/dev.toml/app.db",
                    "postgresql": "postgresql://u:s3cret@127.0.0.1:1/x",
                },
                "Check that it is right, and that the store is there",
            ),
            (
                {
                    "file": "config/dev.toml/x",
                    "cache": "redis://h?colour=1",
                    "sqlite": "sqlite:///x.db?mode=ro",
                    "postgresql": "postgresql://h:99999/x",
                },
                "found",
            ),
        ],
        ids=["missing", "mistyped"],
    )
    def test_a_place_that_is_none_is_wrong(
        self, place: tuple[str, str], places: dict[str, str], finding: str
    ) -> None:
        kind, _ = place
        kind = "cache" if kind in ("sentinel", "cluster") else kind
        wrong = places.get(kind, "")
        match kind:
            case "memory":
                store = 'type = "memory"\npath = "found/nowhere"'
            case "file":
                store = f'type = "file"\npath = "{wrong}"'
            case "cache":
                store = f'type = "cache"\nuri = "{wrong}"'
            case _:
                store = f'type = "database"\n[database]\nurl = "{wrong}"'
        said = self.check(f"[middlewares.session.store]\n{store}")
        assert "config/dev.toml: error: " in said
        assert finding in said or "is not a folder. Name one" in said or kind == "memory"
        assert "s3cret" not in said

    def test_a_server_that_does_not_tell_its_settings_is_a_warning(
        self, place: tuple[str, str]
    ) -> None:
        kind, uri = place
        if kind != "cache":
            return
        from redis import Redis

        with Redis.from_url(uri) as server:
            commands = ["+@all", "-info"]
            server.acl_setuser("silent", enabled=True, nopass=True, keys="*", commands=commands)
            user = uri.replace("://", "://silent:x@")
            store = f'[middlewares.session.store]\ntype = "cache"\nuri = "{user}"\n'
            said = self.check(store, status=0)
            server.acl_deluser("silent")
        assert "warning: what its server's settings may cost is not known: " in said

    @pytest.fixture
    def checked(self) -> Callable[[str, str], str]:
        """Check a store of a kind at a URL, ready to serve."""

        def checked(kind: str, url: str) -> str:
            text = ""
            match kind:
                case "file":
                    path = url.removeprefix("file:")
                    text = f'[middlewares.session.store]\ntype = "file"\npath = "{path}"\n'
                case "cache":
                    text = f'[middlewares.session.store]\ntype = "cache"\nuri = "{url}"\n'
                case "sqlite" | "postgresql":
                    text = f'[database]\nurl = "{url}"\n'
                    text += '[middlewares.session.store]\ntype = "database"\n'
            write("dev", text)
            if kind in ("sqlite", "postgresql"):
                missing = config("check", "dev", status=1)
                assert "Run: app migrate --env dev" in missing
                assert "Up to date: " in invoke("migrate", "--env", "dev").output
            return config("check", "dev")

        return checked


def test_requirements_name_what_the_stores_need() -> None:
    assert config("requirements") == "\n"
    write("prod", '[middlewares.session.store]\ntype = "cache"\nuri = "redis://h"\n')
    assert config("requirements") == "--editable .[cache] --group cache\n"
    write(
        "prod", '[database]\nurl = "sqlite:///x"\n[middlewares.session.store]\ntype = "database"\n'
    )
    assert config("requirements") == "--editable .[database]\n"


def test_a_change_of_one_table_leaves_the_others() -> None:
    text = '[a]\nx = "1"\n[b]\nx = "2"  # c\ny = "3"\n'
    assert set_table(text, ("b",), {"x": "9"}, keep_others=True) == text.replace('"2"', '"9"')
    assert set_table(text, ("b",), {"x": "9"}) == '[a]\nx = "1"\n[b]\nx = "9"  # c\n'

"""Put the engine beside the app, and say what to do next. It runs in the project's folder."""

import json
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

ANSWERS = json.loads(bytes.fromhex("{{ cookiecutter | as_data }}"))
ENGINE = Path(json.loads(bytes.fromhex("{{ template | as_data }}")), "engine")
PLACE = Path("src", "serversessions")
AGAIN = "Run cookiecutter again, with --overwrite-if-exists --skip-if-file-exists."


def copy_engine() -> None:
    """Copy the engine whole or not at all: into a folder beside its place, then by one rename."""
    folder = Path(tempfile.mkdtemp(prefix=".serversessions-", dir=PLACE.parent))
    package = ENGINE / "src" / PLACE.name
    try:
        for source in (ENGINE / "README.md", ENGINE / "LICENSE", *package.rglob("*")):
            copy = folder / source.relative_to(package if package in source.parents else ENGINE)
            if not source.is_dir() and source.parent.name != "__pycache__":
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
        folder.chmod(PLACE.parent.stat().st_mode)
        folder.rename(PLACE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def say_what_next() -> None:
    slug, environment = ANSWERS["project_slug"], ANSWERS["environment"]
    uv = shutil.which("uv")
    command = f"uv run {slug}" if uv else f".venv/bin/{slug}"
    run = f"{command} run --env {environment}"
    steps = [f"cd {shlex.quote(os.getcwd())}"]
    if ANSWERS["__server"] == "postgresql":
        steps += ["make database   # PostgreSQL in Docker, with a password in .env"]
    elif ANSWERS["__server"]:
        steps += ["docker compose up --detach   # the server that holds the sessions"]
    if len(list(Path("config").glob("*.toml"))) > 1:  # the project was there already
        steps += [] if uv else ["make test   # installs what the store needs"]
        steps += [f"{command} config check {environment}", run]
    elif uv:
        steps += [f"{run} --reload   # http://127.0.0.1:8000", "uv run pytest"]
    else:
        steps += ["make run   # http://127.0.0.1:8000", "make test"]
    print(f"\nSessions: {ANSWERS['session_store']}, as config/{environment}.toml says.\n")
    print(*(f"  {step}" for step in steps), "", sep="\n")


if not PLACE.exists():
    try:
        copy_engine()
    except (OSError, KeyboardInterrupt) as error:
        if not PLACE.exists():  # nor was it put there by another cookiecutter meanwhile
            reason = str(error) or "interrupted"
            sys.exit(f"\n{PLACE} could not be copied from {ENGINE}: {reason}.\n{AGAIN}")
if "_commit" not in ANSWERS or str(Path.cwd().parents[1]) != tempfile.gettempdir():
    say_what_next()  # where cruft looks for what is new, nobody goes on

"""Say what to do next."""

from __future__ import annotations

import json
from pathlib import Path

answers = json.loads(r"""{{ cookiecutter | tojson }}""")
environment, store = answers["environment"], answers["session_store"]
is_first = len(list(Path("config").glob("*.toml"))) == 1
has_server = Path("compose.yaml").exists()

steps = [f"cd {Path.cwd()}"]
if has_server:
    steps.append("docker compose up -d  # the server that holds the sessions")
if is_first:
    steps += ["make run   # http://127.0.0.1:8000", "make test"]
else:  # the template again, over a project that was there
    command = f".venv/bin/{answers['project_slug']}"
    steps += [
        "make test  # installs what the store needs",
        f"{command} config check {environment}",
        f"{command} run --env {environment}",
    ]

print(f"\nSessions live in the {store} store: config/{environment}.toml says so.\n")
print("\n".join(f"  {step}" for step in steps) + "\n")

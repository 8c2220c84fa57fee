"""Say what to do next."""

from __future__ import annotations

import json
from pathlib import Path

answers = json.loads(r"""{{ cookiecutter | tojson }}""")
has_server = Path("compose.yaml").exists()

print(
    f"""
Sessions live in the {answers["session_store"]} store: config/{answers["environment"]}.toml says so.

  cd {Path.cwd()}
{"  docker compose up -d  # the server that holds the sessions" if has_server else ""}
  make run   # http://127.0.0.1:8000
  make test
""".replace("\n\n  make", "\n  make")
)

"""Say what to do next."""

from __future__ import annotations

import json
from pathlib import Path

answers = json.loads(r"""{{ cookiecutter | tojson }}""")
config = f"config/{answers['environment']}.toml"
server = "\n  docker compose up -d   # starts the server that holds the sessions"
print(f"""
{Path.cwd()}: sessions live in {answers["session_store"]} ({config}).

  cd {answers["project_slug"]}{server if Path("compose.yaml").exists() else ""}
  make run    # http://127.0.0.1:8000
  make test
""")

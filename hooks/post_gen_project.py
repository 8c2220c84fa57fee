"""Say what to do next.

It imports only what Python has imported by then: json and pathlib would double what it takes.
"""

import os

# As JSON, a name is itself in quotes.
environment = r""" {{ cookiecutter.environment | tojson }} """.strip(' "')
store = r""" {{ cookiecutter.session_store | tojson }} """.strip(' "')
slug = r""" {{ cookiecutter.project_slug | tojson }} """.strip(' "')
is_first = sum(name.endswith(".toml") for name in os.listdir("config")) == 1

steps = [f"cd {os.getcwd()}"]
if os.path.exists("compose.yaml"):
    steps.append("docker compose up -d  # the server that holds the sessions")
if is_first:
    steps += ["make run   # http://127.0.0.1:8000", "make test"]
else:  # the template again, over a project that was there
    steps += [
        "make test  # installs what the store needs",
        f".venv/bin/{slug} config check {environment}",
        f".venv/bin/{slug} run --env {environment}",
    ]

print(f"\nSessions live in the {store} store: config/{environment}.toml says so.\n")
print("\n".join(f"  {step}" for step in steps) + "\n")

"""Refuse a replay's answers that can't be used; all others were checked when they were given."""

import json
import sys

if refusal := json.loads(bytes.fromhex("{{ cookiecutter | refusal | as_data }}")):
    sys.exit(f"{refusal}\nNothing was generated.")

"""Refuse answers that can't be used, before anything is written.

A replay asks nothing, so this is where its answers are checked: cookiecutter removes the folder
that it has made. All others were checked when they were given: cookiecutter.json, ``__checked``.
"""

import json
import sys

if refusal := json.loads(bytes.fromhex("{{ cookiecutter | refusal | as_data }}")):
    sys.exit(f"{refusal}\nNothing was generated.")

"""Refuse the answers of a replay that can't be used; all others were checked when they were given.

Cookiecutter then removes the folder that it has made for the project.
"""

import json
import sys

if refusal := json.loads(bytes.fromhex("{{ cookiecutter | refusal | as_data }}")):
    sys.exit(f"{refusal}\nNothing was generated.")

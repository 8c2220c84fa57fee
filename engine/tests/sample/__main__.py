"""``python -m tests.sample`` runs the command."""

from .cli import main

main(prog_name="app")

"""``python -m`` runs the project's command."""

from .cli import main

main()

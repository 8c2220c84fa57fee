"""``make new``: cookiecutter on this template, with one message for whatever goes wrong."""

from __future__ import annotations

import json
import sys
import warnings
from difflib import get_close_matches
from pathlib import Path

import click
from cookiecutter.cli import main as cookiecutter

TEMPLATE = Path(__file__).parent
SETTINGS = ("_extensions", "_jinja2_env_vars")
WRONG_USAGE, FAILURE, INTERRUPTED = 2, 1, 130


def main(arguments: list[str]) -> int:
    """Generate a project; the exit status."""
    warnings.simplefilter("error", UserWarning)  # of a choice that is none, in a file of answers
    arguments = [str(TEMPLATE), *arguments]
    with cookiecutter.make_context("make new", list(arguments), resilient_parsing=True) as context:
        folder = Path(context.params["output_dir"])
    before = list_names(folder)
    message, status = generate(arguments)
    if message:
        begun = sorted(list_names(folder) - before)
        left = f"Not whole: {', '.join(begun)}. Remove it before you try again."
        print(f"{message}\n{left if begun else 'Nothing was generated.'}", file=sys.stderr)
    return status


def generate(arguments: list[str]) -> tuple[str, int]:
    """What went wrong, unless cookiecutter has said so, and the exit status."""
    if unknown := find_unknown_names(arguments[1:]):
        return unknown, WRONG_USAGE
    try:
        return "", int(cookiecutter(arguments, standalone_mode=False) or 0)
    except SystemExit as stopped:  # cookiecutter has said why
        return "", WRONG_USAGE if stopped.code else 0
    except (ValueError, UserWarning) as error:  # an answer that is not among the choices
        return str(error), WRONG_USAGE
    except click.ClickException as error:
        error.show()
        return "", error.exit_code
    except (EOFError, click.Abort) as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            return "\nInterrupted.", INTERRUPTED
        advice = 'Without a terminal to ask at, use make new ARGS="--no-input".'
        return f"\nNo more answers. {advice}", WRONG_USAGE
    except OSError as error:
        return str(error), FAILURE


def find_unknown_names(arguments: list[str]) -> str:
    """What to say of answers to questions that nobody asks: cookiecutter would pass over them."""
    questions = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    names = [name for name in questions if not name.startswith("__") and name not in SETTINGS]
    lines = []
    for argument in arguments:
        name, is_answer, _ = argument.partition("=")
        if is_answer and not name.startswith("-") and name not in names:
            close = get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            lines.append(f"{name}: no such question; {hint}allowed: {', '.join(names)}")
    return "\n".join(lines)


def list_names(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError:
        return set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

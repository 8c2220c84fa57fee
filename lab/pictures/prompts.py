"""A terminal in which the template asks its questions, and is answered."""

from __future__ import annotations

import io
import os
import pty
import sys
import termios
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

# Enter takes what stands in brackets.
ANSWERS = ["My Shop", "", "", "", "Ada Lovelace", "", "3"]
COLUMNS = 88
# As rich's own, but without fonts from the web: a README's picture may load nothing.
SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font: {char_height}px/{line_height}px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}}
.{unique_id}-title {{ font: bold 18px system-ui, sans-serif; }}
{styles}
</style>
<defs>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def draw(template: Path) -> str:
    """``make new`` as SVG: what the terminal showed, with what was typed in green."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(_record(template)))
    return console.export_svg(
        title="make new", theme=SVG_EXPORT_THEME, code_format=SVG, unique_id="prompts"
    )


def _record(template: Path) -> str:
    """All that the terminal shows, with ANSI colours."""
    with TemporaryDirectory() as folder:
        beside = Path(folder, template.name)
        beside.mkdir()
        shown = _converse(template, beside, list(ANSWERS))
    return f"$ {_typed('make new')}\n{shown}".replace(folder, "..").rstrip()


def _converse(template: Path, folder: Path, answers: list[str]) -> str:
    command = [sys.executable, "-m", "cookiecutter", str(template), "--output-dir", ".."]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        looks = {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LANG": "C.UTF-8"}
        os.execve(
            sys.executable, command, looks | {"PATH": os.environ["PATH"], "HOME": str(folder)}
        )
    shown, asked = "", ""
    with os.fdopen(terminal, "r+b", buffering=0) as screen:
        _stop_echo(terminal)
        while part := _read(screen):
            asked += part
            if asked.endswith(": ") and answers:
                answer = answers.pop(0)
                screen.write(f"{answer}\n".encode())
                shown, asked = shown + asked + _typed(answer) + "\n", ""
    os.waitpid(child, 0)
    return shown + asked


def _stop_echo(terminal: int) -> None:
    attributes = termios.tcgetattr(terminal)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)


def _read(screen: io.RawIOBase) -> str:
    try:
        return (screen.read(4096) or b"").decode().replace("\r\n", "\n")
    except OSError:  # how Linux says that the other end was closed
        return ""


def _typed(text: str) -> str:
    return f"\x1b[1;32m{text}\x1b[0m"

"""What imports what, read from the source: the files that a project's owner has, and the engine."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

PACKAGE = "my_app"
ENGINE = "serversessions"
SOURCES = {
    PACKAGE: Path("{{cookiecutter.project_slug}}", "src", "{{cookiecutter.package_name}}"),
    ENGINE: Path("engine", "src", ENGINE),
}


@dataclass(frozen=True)
class Box:
    """What is drawn as one: modules, or packages with all in them that has no box of its own."""

    title: str
    modules: tuple[str, ...]
    x: int  # pixels, as all below
    y: int
    width: int
    height: int
    lists: bool = False  # its modules by name

    def near(self, x: float) -> float:
        """The point of its upper or lower side that is nearest to ``x``."""
        return min(max(x, self.x + 20), self.x + self.width - 20)


def _own(*names: str) -> tuple[str, ...]:
    return tuple(f"{PACKAGE}.{name}" for name in names)


def _engines(*names: str) -> tuple[str, ...]:
    return tuple(f"{ENGINE}.{name}" for name in names)


BOXES = [
    Box("app.py", _own("app"), 32, 56, 420, 64),
    Box("cli.py", _own("cli", "__main__"), 600, 56, 240, 80),
    Box("pages.py", _own("pages"), 32, 164, 195, 106),
    Box("config.py", _own("config"), 390, 164, 220, 106),
    Box("migrations/", _own("migrations.env", "migrations"), 860, 56, 161, 80),
    Box("wiring.py", _engines("wiring", "fastapi", "database"), 160, 348, 190, 100),
    Box("cli/", _engines("cli"), 600, 348, 252, 100),
    Box("middleware.py", _engines("middleware"), 32, 488, 220, 420, lists=True),
    Box("config/", _engines("config"), 390, 488, 220, 82),
    Box("migrations.py", _engines("migrations"), 860, 488, 161, 116),
    Box("stores/", _engines("stores"), 360, 614, 380, 64),
    Box("memory", _engines("stores.memory"), 280, 734, 116, 172),
    Box("file", _engines("stores.file"), 405, 734, 116, 172),
    Box("redis/", _engines("stores.redis"), 530, 734, 116, 172),
    Box("sqlite", _engines("stores.sqlite"), 655, 734, 116, 172),
    Box("postgresql", _engines("stores.postgresql", "stores.pool"), 780, 734, 116, 172),
    Box("sql.py", _engines("stores.sql", "stores.database_url", "stores.loads"), 655, 942, 366, 66),
    Box("store.py", _engines("store"), 32, 1044, 989, 60),
]
REST = BOXES[7]  # has whatever is directly in the engine, and in no box
# For tests, or without imports of their own: arrows to these would hide all others.
LEFT_OUT = _engines("testing", "cookie", "expiry", "location", "problems", "stores.threads")
PANELS = [  # the owner's and the library's: y, height, and where the title has room
    (f"src/{PACKAGE}/: yours", 16, 276, 32),
    (f"src/{ENGINE}/: a library", 308, 812, 258),
]
WIDTH, HEIGHT = 1053, 1166
LINE = 17
STYLE = """
svg { --page: #f6f7f5; --card: #fff; --ink: #1b2320; --soft: #55615c; --edge: #aab4af;
  --arrow: #0a6656 }
@media (prefers-color-scheme: dark) {
  svg { --page: #111514; --card: #191f1d; --ink: #e7ecea; --soft: #a3afaa; --edge: #4a5651;
    --arrow: #62d0b6 }
}
text { font: 12px system-ui, sans-serif; fill: var(--soft) }
.title { font: bold 14px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  fill: var(--ink) }
.panel-title { font: bold 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
.code { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: var(--ink) }
.page { fill: var(--page) }
.panel { fill: none; stroke: var(--edge); stroke-dasharray: 5 5 }
.box { fill: var(--card); stroke: var(--edge) }
.arrow { fill: none; stroke: var(--arrow); stroke-width: 1.5; marker-end: url(#head) }
#head { fill: var(--arrow) }
"""
HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="9" markerHeight="9"'
    ' markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 8 4 0 8z"/></marker>'
)
LEGEND = (
    "An arrow: imports. Left out: what follows from other arrows; testing/; what imports nothing"
    " (cookie.py, expiry.py, location.py, problems.py, stores/threads.py)."
)


def draw(template: Path) -> str:
    """The structure as SVG.

    Raises:
        ValueError: a module is in no box, imports something drawn above it, or lacks room.
    """
    modules = {
        module.name: module
        for package, source in SOURCES.items()
        for module in _read(package, template / source)
    }
    arrows = _drop_implied(_find_arrows(modules))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
        f"<style>{STYLE}</style>",
        HEAD,
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="12"/>',
        *(part for panel in PANELS for part in _draw_panel(*panel)),
        *(_draw_arrow(source, target) for source, target in arrows),
        *(part for box in BOXES for part in _draw_box(box, modules)),
        _draw_text(32, HEIGHT - 18, LEGEND),
        "</svg>\n",
    ]
    return "\n".join(parts)


# Reading


@dataclass(frozen=True)
class Module:
    """A file, by its dotted name."""

    name: str
    is_package: bool
    tree: ast.Module

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        docstring = ast.get_docstring(self.tree) or ""
        return docstring.partition("\n")[0].partition(". ")[0].rstrip(".").replace("``", "")

    def imports(self) -> Iterator[tuple[str, str]]:
        """From which of our modules it imports, and what. Types alone don't count."""
        here = self.name.split(".")
        for node in _walk_what_runs(self.tree):
            if isinstance(node, ast.ImportFrom):
                parents = here[: len(here) + self.is_package - node.level] if node.level else []
                path = ".".join([*parents, *filter(None, [node.module])])
                if path.partition(".")[0] in SOURCES:
                    yield from ((path, alias.name) for alias in node.names)


def _walk_what_runs(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from _walk_what_runs(node)


def _read(package: str, source: Path) -> Iterator[Module]:
    for path in sorted(source.rglob("*.py")):
        *folders, stem = path.relative_to(source).with_suffix("").parts
        is_package = stem == "__init__"
        name = ".".join([package, *folders, *([] if is_package else [stem])])
        if "versions" not in folders and not name.startswith(LEFT_OUT):
            code = re.sub(r"{{.*?}}", PACKAGE, path.read_text(encoding="utf-8"))
            yield Module(name, is_package, ast.parse(code))


def _find_origin(modules: dict[str, Module], path: str, name: str) -> str:
    """The module that ``from path import name`` means: a package has most names from another."""
    if (module := f"{path}.{name}") in modules:
        return module
    if path in modules and modules[path].is_package:
        for inner_path, inner_name in modules[path].imports():
            if inner_name == name:
                return _find_origin(modules, inner_path, name)
    return path


def _box_of(module: str) -> Box:
    """The box that names the module, or else a package that it is in."""
    for box in BOXES:
        if module in box.modules:
            return box
    package, _, _ = module.rpartition(".")
    if package == ENGINE:
        return REST
    if package in ("", PACKAGE):
        raise ValueError(f"{module!r} is in no box of {__name__}")
    return _box_of(package)


def _find_arrows(modules: dict[str, Module]) -> set[tuple[Box, Box]]:
    arrows = set()
    for module in modules.values():
        if module.name in SOURCES:  # what a package hands on
            continue
        for path, name in module.imports():
            origin = _find_origin(modules, path, name)
            if origin.startswith(LEFT_OUT):
                continue
            source, target = _box_of(module.name), _box_of(origin)
            if (target.y, target.x) < (source.y, source.x):
                raise ValueError(f"{module.name} imports {name} from {target.title}, above it")
            if target != source:
                arrows.add((source, target))
    return arrows


def _drop_implied(arrows: set[tuple[Box, Box]]) -> list[tuple[Box, Box]]:
    """The arrows that do not follow from others, in the order of the boxes."""

    def leads(source: Box, target: Box) -> bool:
        ends = [end for start, end in arrows if start == source]
        return target in ends or any(leads(end, target) for end in ends)

    return [
        (source, target)
        for source in BOXES
        for target in BOXES
        if (source, target) in arrows
        and not any(leads(end, target) for start, end in arrows if start == source)
    ]


# Drawing


def _draw_arrow(source: Box, target: Box) -> str:
    if source.y == target.y:
        y = source.y + source.height / 2
        path = f"M{source.x + source.width} {y} H{target.x}"
    else:
        end = target.near(source.x + source.width / 2)
        start = source.near(end)
        top, bottom = source.y + source.height, target.y
        middle = (top + bottom) / 2
        path = f"M{start} {top} C{start} {middle} {end} {middle} {end} {bottom}"
    return f'<path class="arrow" d="{path}"/>'


def _draw_panel(title: str, y: int, height: int, x: int) -> Iterator[str]:
    yield (f'<rect class="panel" x="16" y="{y}" width="{WIDTH - 32}" height="{height}" rx="10"/>')
    yield _draw_text(x, y + 25, title, "panel-title")


def _draw_box(box: Box, modules: dict[str, Module]) -> Iterator[str]:
    size = f'x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}"'
    yield f'<rect class="box" {size} rx="8"/>'
    left, top = box.x + 14, box.y + 23
    yield _draw_text(left, top, box.title, "title")
    top += 2
    summary = modules[box.modules[0]].summary
    for line in textwrap.wrap(summary, round((box.width - 24) / 6.4)):
        yield _draw_text(left, top := top + LINE, line)
    if box.lists:
        top += LINE // 2
        for name in modules:
            if name not in SOURCES and _box_of(name) == box and name not in box.modules:
                yield _draw_text(left, top := top + LINE, name.rpartition(".")[2] + ".py", "code")
    if top + 6 > box.y + box.height:
        raise ValueError(f"{box.title} needs more room in BOXES of {__name__}")


def _draw_text(x: int, y: int, text: str, style: str = "") -> str:
    attribute = f' class="{style}"' if style else ""
    return f'<text x="{x}" y="{y}"{attribute}>{escape(text)}</text>'

"""What imports what in a generated project: read from its source, drawn where ``BOXES`` says."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

PACKAGE = "{{cookiecutter.package_name}}"
SOURCE = Path("{{cookiecutter.project_slug}}", "src", PACKAGE)


@dataclass(frozen=True)
class Box:
    """What is drawn as one: a module, or a package with all in it that has no box of its own."""

    title: str
    modules: tuple[str, ...]
    x: int  # pixels, as all below
    y: int
    width: int
    height: int
    lists: bool = False  # its modules by name
    says_what: bool = True  # its first module is for

    def near(self, x: float) -> float:
        """The place on its upper or lower side that is nearest to ``x``."""
        return min(max(x, self.x + 20), self.x + self.width - 20)


CACHE = ("batches", "cache_uri", "clients", "cluster", "connection")
REDIS = tuple(f"sessions.stores.{name}" for name in CACHE)
BOXES = [
    Box("app.py", ("app",), 32, 32, 340, 74),
    Box("cli/, checks.py", ("cli", "checks", "__main__"), 640, 32, 338, 74),
    Box("pages.py", ("pages",), 32, 164, 262, 90),
    Box("migrations/", ("migrations",), 716, 164, 262, 90),
    Box("sessions/", ("sessions",), 32, 300, 262, 296, lists=True),
    Box("sessions/stores/", ("sessions.stores",), 330, 300, 250, 92),
    Box("config/", ("config",), 616, 300, 200, 108),
    Box("memory.py", ("sessions.stores.memory",), 330, 468, 150, 128),
    Box("cache.py", ("sessions.stores.cache",), 496, 468, 150, 128),
    Box("file.py", ("sessions.stores.file",), 662, 468, 150, 128),
    Box("database.py", ("sessions.stores.database",), 828, 468, 150, 128),
    Box("for Redis", REDIS, 592, 642, 126, 129, lists=True, says_what=False),
    Box("threads.py", ("sessions.stores.threads",), 765, 642, 110, 36, says_what=False),
    Box("sessions/store.py", ("sessions.store",), 32, 800, 946, 58),
]
WIDTH, HEIGHT = 1010, 908
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
.code { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: var(--ink) }
.page { fill: var(--page) }
.box { fill: var(--card); stroke: var(--edge) }
.arrow { fill: none; stroke: var(--arrow); stroke-width: 1.5; marker-end: url(#head) }
#head { fill: var(--arrow) }
"""
HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="9" markerHeight="9"'
    ' markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 8 4 0 8z"/></marker>'
)
LEGEND = "An arrow: imports. What follows from other arrows is left out."


def draw(template: Path) -> str:
    """The structure as SVG.

    Raises:
        ValueError: a module is in no box, imports something drawn above it, or lacks room.
    """
    modules = _read(template / SOURCE)
    arrows = _drop_implied(_find_arrows(modules))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
        f"<style>{STYLE}</style>",
        HEAD,
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="12"/>',
        *(_draw_arrow(source, target) for source, target in arrows),
        *(part for box in BOXES for part in _draw_box(box, modules)),
        _draw_text(40, HEIGHT - 24, LEGEND),
        "</svg>\n",
    ]
    return "\n".join(parts)


# Reading


@dataclass(frozen=True)
class Module:
    """A file of the package, by its dotted name in it."""

    name: str
    is_package: bool
    tree: ast.Module

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        docstring = ast.get_docstring(self.tree) or ""
        return docstring.partition("\n")[0].partition(". ")[0].rstrip(".").replace("``", "")

    def imports(self) -> Iterator[tuple[str, str]]:
        """From which module of the package it imports, and what. Types alone don't count."""
        here = self.name.split(".")
        for node in _walk_what_runs(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                parents = here[: len(here) + self.is_package - node.level]
                path = ".".join([*parents, *filter(None, [node.module])])
                yield from ((path, alias.name) for alias in node.names)


def _walk_what_runs(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from _walk_what_runs(node)


def _read(source: Path) -> dict[str, Module]:
    modules = {}
    for path in sorted(source.rglob("*.py")):
        *folders, stem = path.relative_to(source).with_suffix("").parts
        is_package = stem == "__init__"
        name = ".".join(folders if is_package else [*folders, stem])
        code = path.read_text(encoding="utf-8").replace(PACKAGE, "package")
        if name:
            modules[name] = Module(name, is_package, ast.parse(code))
    return modules


def _find_origin(modules: dict[str, Module], path: str, name: str) -> str:
    """The module that ``from path import name`` means: a package has most names from another."""
    if (module := f"{path}.{name}".lstrip(".")) in modules:
        return module
    if modules[path].is_package:
        for inner_path, inner_name in modules[path].imports():
            if inner_name == name:
                return _find_origin(modules, inner_path, name)
    return path


def _box_of(module: str) -> Box:
    """The box that names the module, or else a package that it is in."""
    for box in BOXES:
        if module in box.modules:
            return box
    package, _, name = module.rpartition(".")
    if not name or not package:
        raise ValueError(f"{module!r} is in no box of {__name__}")
    return _box_of(package)


def _find_arrows(modules: dict[str, Module]) -> set[tuple[Box, Box]]:
    arrows = set()
    for module in modules.values():
        for path, name in module.imports():
            source, target = _box_of(module.name), _box_of(_find_origin(modules, path, name))
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


def _draw_box(box: Box, modules: dict[str, Module]) -> Iterator[str]:
    size = f'x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}"'
    yield f'<rect class="box" {size} rx="8"/>'
    left, top = box.x + 14, box.y + 23
    yield _draw_text(left, top, box.title, "title")
    if box.says_what:
        top += 2
        for line in textwrap.wrap(modules[box.modules[0]].summary, round((box.width - 24) / 6.4)):
            yield _draw_text(left, top := top + LINE, line)
    if box.lists:
        top += LINE // 2
        for name, module in modules.items():
            if _box_of(name) == box and not module.is_package:
                yield _draw_text(left, top := top + LINE, name.rpartition(".")[2] + ".py", "code")
    if top + 6 > box.y + box.height:
        raise ValueError(f"{box.title} needs more room in BOXES of {__name__}")


def _draw_text(x: int, y: int, text: str, style: str = "") -> str:
    attribute = f' class="{style}"' if style else ""
    return f'<text x="{x}" y="{y}"{attribute}>{escape(text)}</text>'

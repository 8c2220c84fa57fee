from pathlib import Path

from . import pages, prompts, structure

TEMPLATE = Path(__file__).parent.parent
DOCS = TEMPLATE / "docs"

(DOCS / "prompts.svg").write_text(prompts.draw(TEMPLATE), encoding="utf-8")
(DOCS / "structure.svg").write_text(structure.draw(TEMPLATE), encoding="utf-8")
(DOCS / "pages.png").write_bytes(pages.draw(TEMPLATE))

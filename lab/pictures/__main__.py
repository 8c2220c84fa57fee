"""``make pictures``: draws all."""

from .. import REPOSITORY
from . import pages, prompts, structure

DOCS = REPOSITORY / "docs"

(DOCS / "prompts.svg").write_text(prompts.draw(REPOSITORY), encoding="utf-8")
(DOCS / "structure.svg").write_text(structure.draw(REPOSITORY), encoding="utf-8")
(DOCS / "pages.png").write_bytes(pages.draw(REPOSITORY))

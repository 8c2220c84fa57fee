"""The pictures of README.md, drawn anew from the template by ``make pictures``.

    prompts.py     docs/prompts.svg: a terminal in which cookiecutter asks its questions
    pages.py       docs/pages.png: the pages of a generated app, as a phone and a desktop show them
    structure.py   docs/structure.svg: what imports what in a generated project and its library

``make bench`` draws docs/benchmarks.svg.
"""

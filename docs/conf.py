"""How Sphinx builds this site: `nox -s docs`, or `sphinx-build -W docs build/docs`."""

import re
import sys
from pathlib import Path
from typing import Any

import fastbg

sys.path.insert(0, str(Path(__file__).parent))

import command_line

project = "fastbg"
author = "the fastbg authors"
copyright = author
release = fastbg.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
exclude_patterns = ["_static"]
myst_heading_anchors = 3
smartquotes = False  # "--hr" stays as it is typed
default_role = "py:obj"  # `name` in a docstring links to it where it is documented here
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"fastbg {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

# Marks that are replaced by text which is made from the code itself.
MADE = {"<!-- commands -->": command_line.commands, "<!-- options -->": command_line.options}


def fill(app: Any, page: str, source: list[str]) -> None:
    """Replace the marks of a page."""
    for mark, make in MADE.items():
        if mark in source[0]:
            source[0] = source[0].replace(mark, make())


def plain(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings write norms as |x|, which reStructuredText would take for substitutions."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        lines[number] = "".join(p if p.startswith("``") else p.replace("|", r"\|") for p in parts)


def setup(app: Any) -> None:
    """Connect both."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", plain, priority=900)

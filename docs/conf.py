"""Sphinx's configuration. `make site` gathers the sources of the site first (docs/site/), so that this is not all."""

import re
from importlib.util import find_spec
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.highlighting import lexers

HERE = Path(__file__).parent / "site"
# Of this package we want one file, and not to load it, as it would copy all of MathJax into the site.
MATHJAX = Path(find_spec("sphinx-mathjax-offline").submodule_search_locations[0]) / "static" / "mathjax"

project = "steerlib"
copyright = "its authors, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
root_doc = "index"
exclude_patterns = ["files"]  # to which pages lead, and which are none
smartquotes = False  # --flag is to stay --flag
default_role = "literal"  # `name` in docstrings
html_title = "steerlib"
html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_show_search_summary = False  # they are fetched, which browsers refuse to pages of a folder
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_static_path = [str(HERE / "site.css"), str(MATHJAX / "tex-svg-full.js")]
html_css_files = ["site.css"]
mathjax_path = "tex-svg-full.js"

# Types in signatures, of which most are of other libraries, or of no wing's face.
nitpick_ignore_regex = [(r"py:(class|data|obj|exc)", r".*")]
autodoc_default_options = {"members": True, "member-order": "bysource", "exclude-members": "model_config"}
autodoc_inherit_docstrings = False
lexers["csv"] = TextLexer()  # which hosts of code know, and Pygments does not

myst_enable_extensions = ["attrs_inline", "dollarmath", "html_image"]
myst_heading_anchors = 4
myst_dmath_double_inline = True  # as Jupyter has it: $$ within a paragraph
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # they would come from a network


def setup(app):
    app.connect("autodoc-process-docstring", lambda *told: told[-1].__setitem__(slice(None), plain(told[-1])))
    app.connect("autodoc-process-signature", lambda *told: tuple(short(signature) for signature in told[-2:]))


def plain(lines: list[str]) -> list[str]:
    """A docstring as it is meant: indented lines are code as they stand, and |x| is no more than that."""
    text = re.sub(r"(?m)^(\S.*)\n\n(?= {4})", r"\1\n\n::\n\n", "\n".join(lines))
    bar = re.compile(r"(``.*?``|`.*?`)|\|")
    return re.sub(r"(?m)^\S.*$", lambda line: bar.sub(lambda it: it[1] or r"\|", line[0]), text).split("\n")


def short(signature: str | None) -> str | None:
    """Types without their modules, also where a dataclass tells them as text."""
    return signature and re.sub(r"~(\w+\.)*", "", signature)

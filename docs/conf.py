"""How the site is made: `make docs`. The pages stand all over the project, where they belong; Sphinx reads them there."""

import json
import sys
from configparser import ConfigParser
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
PROJECT = DOCS.parent
sys.path[:0] = [str(PROJECT), str(DOCS)]
settings = ConfigParser(delimiters=["="])
settings.read(PROJECT / "settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]

project, author, release, copyright = settings["title"], settings["author"], settings["version"], settings["copyright"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "docments"]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "data/README.md", "docs/**", "nbs/**"]
exclude_patterns = [".venv*", ".git", ".dvc", ".github", "docs/_site", "nbs/index.ipynb", "**/.ipynb_checkpoints", "reports", "models", "data/raw", "data/prepared", "scratch"]
nb_execution_mode = "off"  # the notebooks hold their outputs, and the tests compare them
nb_merge_streams = True
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docments names the type of each parameter
html_theme = "pydata_sphinx_theme"
html_title = "emodetect"
html_static_path = ["static"]
html_css_files = ["own.css"]
html_extra_path = ["root"]
html_sidebars = {"README": [], "nbs/start": [], "docs/design": []}  # pages that have no siblings
html_show_sphinx = html_copy_source = False
html_theme_options = {
    "github_url": settings["git_url"],
    "navigation_with_keys": False,
    "header_links_before_dropdown": 8,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def write_api(app: Sphinx) -> None:
    """A page for each module; its text comes from the docstrings and comments."""
    (DOCS / "api").mkdir(exist_ok=True)
    for module in sorted((PROJECT / "emodetect").glob("[a-z]*.py")):
        name = f"emodetect.{module.stem}"
        text = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n   :members:\n"
        page = DOCS / "api" / f"{module.stem}.rst"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def without_directives(app: Sphinx, name: str, source: list[str]) -> None:
    """A notebook as a page: without the cells and the lines that only nbdev reads."""
    if not name.startswith("nbs/"):
        return
    notebook = json.loads(source[0])
    notebook["cells"] = [cell for cell in notebook["cells"] if not "".join(cell["source"]).startswith(("#| default_exp", "#| hide"))]
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"]).removeprefix("#| export\n")
    source[0] = json.dumps(notebook)


def setup(app: Sphinx) -> None:
    """Join Sphinx."""
    app.connect("builder-inited", write_api)
    app.connect("source-read", without_directives)

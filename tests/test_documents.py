"""The pages around the code (nbs/index.ipynb is README.md): they name what is there, and the citation, the templates and the site are well-formed."""

import ast
import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parent.parent
PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md", "data/README.md")]
NOTEBOOKS = [path for path in sorted((PROJECT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts and path.stem != "index"]
TEXTS = [*PAGES, *sorted((PROJECT / "docs").glob("*.md")), *NOTEBOOKS]
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(PROJECT / "settings.ini", encoding="utf-8")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_every_target_that_a_page_names_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z][a-z-]+)", path.read_text())) <= targets


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+?)(?:#[^)\s]*)?\)", path.read_text())
    local = [link for link in links if re.fullmatch(r"[\w./ -]+\.(?:md|ipynb|svg|png|jpg)|LICENSE", link)]
    assert not [link for link in local if not (path.parent / link).exists()]


def test_security_names_every_lock_that_is_audited() -> None:
    locks = {path.name for path in (*PROJECT.glob("requirements*.txt"), PROJECT / "package-lock.json")}
    assert set(re.findall(r"`(requirements\w*\.txt|package-lock\.json)`", (PROJECT / "SECURITY.md").read_text())) == locks


def test_citation_is_well_formed_and_of_this_version() -> None:
    assert subprocess.run(["check-jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff"], cwd=PROJECT).returncode == 0
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    settings = SETTINGS["DEFAULT"]
    assert (citation["version"], citation["repository-code"], citation["authors"][0]["name"]) == (settings["version"], settings["git_url"], settings["author"])


def test_issue_templates_follow_the_schema() -> None:
    forms = [str(path) for path in (PROJECT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert subprocess.run(["check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", *forms]).returncode == 0
    assert subprocess.run(["check-jsonschema", "--builtin-schema", "vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"], cwd=PROJECT).returncode == 0


def test_reference_takes_parameters_from_the_comments_behind_them() -> None:
    import sys

    sys.path.insert(0, str(PROJECT / "docs"))
    from docments import document

    from emodetect.core import first_few
    from emodetect.labels import Face

    lines = ["The first `limit` items."]
    document(None, "function", "first_few", first_few, None, lines)
    assert lines[0] == "The first ``limit`` items." and ":param limit: how many are named, at least 1" in lines and ":type limit: ``int``" in lines
    assert ":returns: ``a; b; c; and 7 more``" in lines
    document(None, "class", "Face", Face, None, fields := ["A face."])
    assert ":param width: width of the box over the picture's width" in fields


def test_every_public_function_says_what_it_does_and_what_its_parameters_are() -> None:
    bare = []
    for path in (PROJECT / "emodetect").glob("[a-z]*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                bare.append(f"{path.stem}.{node.name}")
    assert not bare


def test_site_has_no_broken_link_and_every_page_a_place(tmp_path: Path) -> None:
    options = ["--quiet", "--fail-on-warning", "--builder", "dummy", "--jobs", "auto", "--conf-dir", "docs", "--doctree-dir", str(tmp_path / "trees")]
    done = subprocess.run(["sphinx-build", *options, ".", str(tmp_path / "site")], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

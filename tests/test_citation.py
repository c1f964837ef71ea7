"""CITATION.cff is a citation file, and says of the software what pyproject.toml says."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
PROJECT = (ROOT / "pyproject.toml").read_text()


def test_keys_that_the_format_requires():
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(CITATION)
    assert CITATION["type"] == "software"
    for reference in CITATION["references"]:
        assert {"type", "title", "authors"} <= set(reference)
    for author in [
        *CITATION["authors"],
        *(author for reference in CITATION["references"] for author in reference["authors"]),
    ]:
        assert set(author) in ({"name"}, {"given-names", "family-names"})


def test_software_is_this_project():
    for key, field in (("title", "name"), ("version", "version"), ("license", "license"), ("abstract", "description")):
        (value,) = re.findall(rf'^{field} = "(.+)"$', PROJECT, re.MULTILINE)
        assert CITATION[key].rstrip(".") == value


def test_paper_is_the_one_that_the_readme_names():
    (reference,) = CITATION["references"]
    assert f"[Hydra]({reference['url']})" in (ROOT / "README.md").read_text()

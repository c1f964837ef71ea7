"""The page is one file that loads nothing, and whatever comes from files is text in it."""

import base64
import hashlib
import json
import re
from datetime import datetime, timezone
from html.parser import HTMLParser

import pytest

from experiments.html_report.collect import Report, collect
from experiments.html_report.files import Comparison
from experiments.html_report.page import Origin, cell, hue, page
from experiments.html_report.timelines import Run
from tests.experiments.html_report.worlds import HOSTILE, comparison, hostile_timeline, write_figure, write_results

ORIGIN = Origin("hydrasim report", datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc))


class Parsed(HTMLParser):
    """The elements of a page, and the text of its scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.text = self.within = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.within = tag
        if tag in self.raw:
            self.raw[tag].append("")

    def handle_endtag(self, tag):
        self.within = ""

    def handle_data(self, data):
        if self.within in self.raw:
            self.raw[self.within][-1] += data
        else:
            self.text += f" {data}"


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("results")
    write_results(folder)
    report = Report()
    collect(folder, report)
    return page(report, ORIGIN)


def hostile_report(folder) -> Report:
    """Return a report with markup in every name, title, note, command, cell and error."""
    write_figure(folder / "fig6", HOSTILE, note=HOSTILE, command=HOSTILE, label=HOSTILE)
    (folder / "fig6" / "data.csv").write_text(f'"{HOSTILE.replace(chr(34), chr(34) * 2)}",label\n<b>,<i>\n')
    report = Report(
        runs=[Run(HOSTILE, ((HOSTILE, hostile_timeline()),), about=HOSTILE)],
        comparisons=[Comparison.model_validate(comparison(HOSTILE, HOSTILE) | {"title": HOSTILE, "effects": HOSTILE})],
        problems=[HOSTILE],
    )
    collect(folder, report)
    return report


def test_everything_is_said(html):
    said = " ".join(Parsed(html).text.split())
    for words in (
        "Demo, best plan: fifo", "The demo's 2 jobs on 1 devices", "No plan takes less than 4.00 s",
        "Orange bars: these plans were executed, too, emulated", "1 cases, 3 plans, 9 runs", "6.2 %, 12.5 %, 12.5 %",
        "Training end to end simulated Fig. 8 We charge copies.",
        "A small version, made with --smoke.", "hydrasim experiment fig8", "gpipe 3.9 -4.9 % simulated",
        "python -m experiments.engine", "on 2026-01-02 03:04 UTC", "copied from a publication, not reproduced",
    ):  # fmt: skip
        assert words in said, words


def test_nothing_is_loaded_from_elsewhere(html):
    for tag, attributes in Parsed(html).elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|innerHTML", html)


def test_the_policy_names_the_only_script_and_styles_that_may_run(html):
    parsed = Parsed(html)
    (policy,) = (a["content"] for tag, a in parsed.elements if tag == "meta" and "http-equiv" in a)
    (style,), (data, script) = parsed.raw["style"], parsed.raw["script"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for text in (style, script):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert "unsafe" not in policy
    assert json.loads(data)["runs"][0]["title"] == "Demo, best plan: fifo"


def test_pictures_have_words_beside_them_and_headings_are_in_order(html):
    elements = Parsed(html).elements
    assert all(attributes.get("alt") for tag, attributes in elements if tag == "img")
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_markup_in_files_is_text(tmp_path):
    html = page(hostile_report(tmp_path), ORIGIN)
    parsed = Parsed(html)
    assert len(parsed.raw["script"]) == 2
    assert {attributes["src"][:10] for tag, attributes in parsed.elements if tag == "img"} == {"data:image"}
    assert parsed.text.count(HOSTILE) >= 12
    assert json.loads(parsed.raw["script"][0])["runs"][0]["timelines"][0]["spans"]["block"]["names"] == [HOSTILE, ""]


def test_signs_that_would_end_a_script_are_spelt_out_in_its_data(tmp_path):
    html = page(Report(runs=[Run("\u2028&<!--", (("a", hostile_timeline()),))]), ORIGIN)
    data = Parsed(html).raw["script"][0]
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data)["runs"][0]["title"] == "\u2028&<!--"


def test_parts_that_are_not_there_are_left_out(tmp_path):
    html = page(Report(comparisons=[Comparison.model_validate(comparison())]), ORIGIN)
    identifiers = {attributes.get("id") for _, attributes in Parsed(html).elements}
    assert {"policies", "labels"} <= identifiers
    assert not {"runs", "fidelity", "figures", "more", "problems"} & identifiers


@pytest.mark.parametrize(
    ("text", "column", "shown"),
    [
        ("gpipe", "system", "gpipe"), ("", "ratio", ""), ("3.94159", "ratio", "3.942"), ("12", "devices", "12"),
        ("1234567", "bytes", "1,234,567"), ("16786.12", "makespan_s", "16,786"), ("nan", "ratio", "nan"),
        ("-0.0487", "error_fraction", "-4.9 %"), ("0.25", "zone_fraction", "25.0 %"), ("inf", "ratio", "inf"),
    ],
)  # fmt: skip
def test_cells_are_written_for_people(text, column, shown):
    assert cell(text, column) == shown


def test_labels_have_the_colour_of_what_they_begin_with():
    assert [hue(label) for label in ("simulated", "analytic, against measured", "guessed")] == [
        "simulated", "analytic", "other"
    ]  # fmt: skip


def test_a_comparison_shows_what_was_used_and_why_a_policy_cannot_run():
    html = page(Report(comparisons=[Comparison.model_validate(comparison())]), ORIGIN)
    said = " ".join(Parsed(html).text.split())
    assert "bound compute-busy moved fifo 6.00 s 1.50 50 % 64 B" in said
    assert "random cannot run: does not fit" in said

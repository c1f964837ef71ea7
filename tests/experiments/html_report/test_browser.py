"""The page in a real browser, headless: it looks as meant, obeys pointer, fingers and keys, and runs nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.html_report.collect import Report, collect
from experiments.html_report.page import page as html_page
from experiments.html_report.timelines import Run
from hydrasim import Timeline
from hydrasim.timeline import Span
from tests.experiments.html_report.test_page import ORIGIN, hostile_report
from tests.experiments.html_report.worlds import HOSTILE, timeline, write_results

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
GUTTER, HEADING = 66, 30  # of the lanes: left of the plot, and above the first row

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="no chromium, chromium-browser or google-chrome on PATH"
)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "CI is to test the page: install chromium"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def report_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_results(folder / "results")
    report = Report(runs=[Run("own", (("a", timeline()), ("b", timeline("emulated", 1.0))), (256,))])
    collect(folder / "results", report)
    (folder / "report.html").write_text(html_page(report, ORIGIN))
    return folder / "report.html"


@pytest.fixture
def opened(browser, report_file) -> Iterator:
    """Return what opens the page, or another; in the end nothing may have been complained about or asked for."""
    pages, noise = [], []

    def open_page(path: Path = report_file, **options: object):
        page = browser.new_context(**({"viewport": DESKTOP} | options)).new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda request: noise.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_function("document.getElementById('lanes').style.height !== ''")
        noise[:] = [entry for entry in noise if entry != path.as_uri() and not entry.startswith("data:")]
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert noise == []


def span_place(page, time_s: float, row: int = 0) -> tuple[float, float]:
    """Return where on the screen a moment of a row of the first device is: 0 compute, 1 h2d, 2 d2h."""
    page.locator("#lanes").scroll_into_view_if_needed()
    box = page.locator("#lanes").bounding_box()
    start_s, end_s = shown_s(page)
    x = box["x"] + GUTTER + (time_s - start_s) / (end_s - start_s) * (box["width"] - GUTTER - 8)
    return x, box["y"] + HEADING + (13, 33, 44)[row]


def shown_s(page) -> tuple[float, float]:
    start, end = page.locator("#range").inner_text().split(" \N{EN DASH} ")
    return seconds(start), seconds(end)


def seconds(text: str) -> float:
    value, unit = text.split()
    return float(value.replace(",", "")) / (1000 if unit == "ms" else 1)


def settled(page) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pixel(page, canvas: str, x: float, y: float) -> list[int]:
    settled(page)
    return page.evaluate(
        "([id, x, y]) => [...document.getElementById(id).getContext('2d').getImageData(x, y, 1, 1).data]",
        [canvas, x, y],
    )


def test_the_whole_run_is_shown_at_first(opened):
    page = opened()
    assert shown_s(page) == (0.0, 6.03)
    assert page.locator("#out").is_disabled()


def test_the_wheel_zooms_about_the_pointer_and_back(opened):
    page = opened()
    page.mouse.move(*span_place(page, 3.0))
    page.mouse.wheel(0, -500)
    page.wait_for_function("!document.getElementById('range').textContent.startsWith('0.000')")
    start_s, end_s = shown_s(page)
    assert end_s - start_s == pytest.approx(6.03 / 2.718, abs=0.01)
    assert (3.0 - start_s) / (end_s - start_s) == pytest.approx(3.0 / 6.03, abs=0.01)
    page.mouse.wheel(0, 2000)
    page.wait_for_function("document.getElementById('range').textContent.startsWith('0.000')")
    assert shown_s(page) == (0.0, 6.03)


def test_a_reader_who_scrolls_down_is_not_held_up_by_the_timeline(opened):
    page = opened()
    page.mouse.move(*span_place(page, 3.0))
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 200)
    page.wait_for_function("(before) => scrollY > before", arg=before)
    assert shown_s(page) == (0.0, 6.03)


def test_pointing_at_a_unit_shows_what_it_did_and_what_it_waited_for(opened):
    page = opened()
    page.mouse.move(*span_place(page, 4.0))
    tooltip = page.locator("#tooltip")
    assert tooltip.inner_text().splitlines() == [
        "B/B0#0", "what: compute, backward", "lane: compute of device 0", "when: 3.000 s to 5.000 s (2.000 s)",
        "waited for: A/F0#0, queued behind it", "b: starts +1.000 s, takes +0.000 s",
    ]  # fmt: skip
    page.mouse.move(*span_place(page, 0.5, row=1))
    assert "load A/w0" in tooltip.inner_text()
    assert "bytes: 64 B, 64 B/s" in tooltip.inner_text()
    page.mouse.move(*span_place(page, 0.5))  # nothing computes yet
    assert tooltip.is_hidden()


def test_a_click_keeps_the_details_and_tells_the_chain(opened):
    page = opened()
    page.mouse.click(*span_place(page, 4.5, row=2))
    details = page.locator("#details")
    assert details.locator("h4").inner_text() == "store A/x1#0"
    assert [item.inner_text().partition(":")[0] for item in details.locator("li").all()] == [
        "store A/x1#0", "A/F0#0", "load A/w0"
    ]  # fmt: skip
    details.locator("li button").first.click()
    assert details.locator("h4").inner_text() == "A/F0#0"
    details.locator(".close").click()
    assert details.is_hidden()


def test_dragging_moves_the_window(opened):
    page = opened()
    page.click("#in")
    before_s = shown_s(page)
    x, y = span_place(page, sum(before_s) / 2)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 100, y, steps=4)
    page.mouse.up()
    after_s = shown_s(page)
    assert after_s[0] < before_s[0]
    assert after_s[1] - after_s[0] == pytest.approx(before_s[1] - before_s[0], abs=0.002)
    assert page.locator("#details").is_hidden()  # a drag is no click


def test_keys_do_what_the_pointer_does(opened):
    page = opened()
    page.focus("#lanes")
    page.keyboard.press("+")
    assert shown_s(page) == pytest.approx((1.005, 5.025))
    page.keyboard.press("ArrowLeft")
    assert shown_s(page) == pytest.approx((0.0, 4.02))
    page.keyboard.press("0")
    assert shown_s(page) == (0.0, 6.03)
    title = page.locator("#details h4")
    found = []
    for key in ("n", "n", "p", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
        found.append(title.inner_text())
    assert found == ["A/F0#0", "B/B0#0", "A/F0#0", "load A/w0", "store A/x1#0"]
    page.keyboard.press("Escape")
    assert page.locator("#details").is_hidden()


def test_memory_and_links_say_what_they_show(opened):
    page = opened()
    page.locator("#memory").scroll_into_view_if_needed()
    for canvas, words in (("memory", "device 0: memory in use\na: 128 B\nb: 64 B"), ("links", "device 0: h2d rate")):
        box = page.locator(f"#{canvas}").bounding_box()
        page.mouse.move(box["x"] + GUTTER + 3.5 / 6.03 * (box["width"] - GUTTER - 8), box["y"] + 20)
        assert page.locator("#tooltip").inner_text().startswith(words)
    assert "Line: a; area: b." in page.locator("#memory-about").inner_text()


def test_another_run_can_be_chosen(opened):
    page = opened()
    page.select_option("#run", label="Validation, case: fifo")
    assert shown_s(page) == (0.0, 5.025)
    assert page.get_by_text("The prediction that was farthest off").is_visible()
    page.mouse.move(*span_place(page, 4.0))
    assert "emulated: starts +0.000 s" in page.locator("#tooltip").inner_text()


def test_a_phone_shows_everything_without_scrolling_sideways(opened):
    page = opened(viewport=PHONE, has_touch=True, is_mobile=True)
    for summary in page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.touchscreen.tap(*span_place(page, 4.0))
    assert page.locator("#details h4").inner_text() == "B/B0#0"
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_two_fingers_zoom(opened):
    page = opened(viewport=PHONE, has_touch=True, is_mobile=True)
    x, y = span_place(page, 3.0)
    fingers = page.context.new_cdp_session(page)
    for kind, apart in (("Start", 40), ("Move", 60), ("Move", 80), ("End", None)):
        points = [] if apart is None else [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        fingers.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    settled(page)
    start_s, end_s = shown_s(page)
    assert end_s - start_s == pytest.approx(6.03 / 2, abs=0.1)
    assert start_s < 3.0 < end_s
    assert page.locator("#details").is_hidden()


@pytest.mark.parametrize(
    ("scheme", "other", "page_colour", "row_colour"),
    [
        ("dark", "light", "rgb(255, 255, 255)", [241, 243, 246, 255]),
        ("light", "dark", "rgb(14, 18, 23)", [26, 33, 42, 255]),
    ],
)
def test_dark_and_light_follow_the_system_until_chosen(opened, scheme, other, page_colour, row_colour):
    page = opened(color_scheme=scheme)
    colour_of = "(element) => getComputedStyle(element).backgroundColor"
    assert page.locator("body").evaluate(colour_of) != page_colour
    while page.locator("html").get_attribute("data-theme") != other:
        page.click("#theme")
    assert page.locator("body").evaluate(colour_of) == page_colour
    assert page.locator(".picture").first.evaluate(colour_of) == "rgb(255, 255, 255)"
    assert pixel(page, "lanes", GUTTER + 2, HEADING + 2) == row_colour  # nothing computes at the start


def test_names_with_markup_are_shown_and_run_nothing(opened, tmp_path):
    path = tmp_path / "hostile.html"
    path.write_text(html_page(hostile_report(tmp_path / "results"), ORIGIN))
    page = opened(path)
    assert HOSTILE in page.locator("#figures h3").inner_text()
    assert HOSTILE in page.locator("#policies").inner_text()
    page.mouse.move(*span_place(page, 0.5, row=1))
    assert page.locator("#tooltip b").inner_text() == f"load {HOSTILE}"
    page.mouse.click(*span_place(page, 0.5, row=1))
    assert page.locator("#details h4").inner_text() == f"load {HOSTILE}"
    assert page.title() == "hydrasim report"
    assert page.locator("img").count() == 1


def test_should_markup_slip_through_the_browser_refuses_to_run_it(browser, report_file, tmp_path):
    path = tmp_path / "slipped.html"
    path.write_text(report_file.read_text().replace("<main", f"{HOSTILE.removeprefix('</script>')}<main"))
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.title() == "hydrasim report"
    page.close()


def test_thousands_of_spans_are_drawn_few_at_a_time(opened, tmp_path):
    spans = (Span(n, "compute", 0, "compute", f"A/F0#{n}", n * 1.0, n + 0.9) for n in range(20_000))
    path = tmp_path / "many.html"
    path.write_text(html_page(Report(runs=[Run("many", (("a", Timeline(tuple(spans))),))]), ORIGIN))
    page = opened(path)
    page.evaluate(
        "() => { const draw = CanvasRenderingContext2D.prototype.fillRect; window.count = 0;"
        "CanvasRenderingContext2D.prototype.fillRect = function (...box) { window.count++; draw.apply(this, box); } }"
    )
    page.mouse.move(*span_place(page, 100.0))
    settled(page)
    assert 500 < page.evaluate("window.count") < 6000

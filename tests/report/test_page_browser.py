"""The page of a run in a browser: no error, hover, click and keys answer, and it fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser import Browser, find_browser

from gp_prune.report.page.write import write_report
from gp_prune.search.results import SearchResult

PATH = find_browser()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PATH is None, reason="no Chromium or Chrome is on the PATH"),
]


@pytest.fixture(scope="module")
def browser(shown_run: SearchResult) -> Iterator[Browser]:
    assert PATH is not None
    with Browser(PATH) as opened:
        opened.load(write_report(shown_run.folder))
        yield opened


def place_of_mark(browser: Browser, number: int) -> dict[str, Any]:
    """The middle of a mark of the first plot, its key and its label."""
    found: dict[str, Any] = browser.evaluate(
        f"""(() => {{
            const mark = document.querySelectorAll("svg .mark[data-key]")[{number}];
            mark.scrollIntoView({{ block: "center", behavior: "instant" }});
            const place = mark.querySelector(".target").getBoundingClientRect();
            return {{ x: place.x + place.width / 2, y: place.y + place.height / 2,
                     key: mark.dataset.key, label: mark.getAttribute("aria-label") }};
        }})()"""
    )
    return found


def marked(browser: Browser) -> list[str]:
    keys: list[str] = browser.evaluate(
        '[...document.querySelectorAll("tr.marked")].map((row) => row.dataset.key)'
    )
    return keys


def test_hover_shows_the_formula_and_click_marks_the_row(browser: Browser) -> None:
    mark = place_of_mark(browser, 0)
    browser.mouse("mouseMoved", 1, 1)
    assert browser.evaluate('document.getElementById("tip").hidden') is True
    browser.mouse("mouseMoved", mark["x"], mark["y"])
    assert browser.evaluate('document.getElementById("tip").hidden') is False
    assert mark["label"] in browser.evaluate('document.getElementById("tip").textContent')
    assert browser.evaluate('document.querySelectorAll("#tip math, #tip code").length') >= 1
    browser.mouse("click", mark["x"], mark["y"])
    assert marked(browser) == [mark["key"]]
    again = place_of_mark(browser, 0)
    browser.mouse("click", again["x"], again["y"])
    assert marked(browser) == []


def test_keys_go_from_mark_to_mark(browser: Browser) -> None:
    browser.mouse("mouseMoved", 1, 1)
    browser.evaluate("document.activeElement.blur()")  # a click has focused a mark
    browser.evaluate('document.querySelector(".mark[data-key]").focus()')
    first = browser.evaluate("document.activeElement.getAttribute('aria-label')")
    assert browser.evaluate('document.getElementById("tip").hidden') is False
    keys = ("ArrowRight", "ArrowLeft")
    for key in keys:
        browser.key(key)
        if browser.evaluate("document.activeElement.getAttribute('aria-label')") != first:
            break
    else:
        pytest.fail("no arrow key leads to another mark")
    browser.key("Enter")
    assert marked(browser) == [browser.evaluate("document.activeElement.dataset.key")]
    browser.key("Escape")
    assert browser.evaluate('document.getElementById("tip").hidden') is True


def test_a_pointer_that_rests_does_not_hide_what_the_keys_show(browser: Browser) -> None:
    browser.mouse("mouseMoved", 1, 1)
    browser.evaluate("document.activeElement.blur()")
    browser.key("Tab")  # keys are in use, so what has the focus shows it
    browser.evaluate('document.querySelector(".mark[data-key]").focus()')
    leave = 'document.activeElement.dispatchEvent(new PointerEvent("pointerleave"))'
    browser.evaluate(leave)
    assert browser.evaluate('document.getElementById("tip").hidden') is False
    browser.key("Escape")
    mark = place_of_mark(browser, 1)
    browser.mouse("click", mark["x"], mark["y"])  # a click gives the focus, too, but not by keys
    browser.mouse("mouseMoved", mark["x"], mark["y"] + 1)
    browser.mouse("mouseMoved", 1, 1)
    assert browser.evaluate('document.getElementById("tip").hidden') is True


def test_a_phone_needs_no_scrolling_to_the_side(browser: Browser) -> None:
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", **size)
    try:
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")


def test_it_is_dark_where_that_is_asked_for(browser: Browser) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", features=features)
        colours.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == {"rgb(255, 255, 255)", "rgb(13, 17, 23)"}


def test_it_is_drawn_quickly_and_without_an_error(browser: Browser) -> None:
    seconds = browser.evaluate('performance.getEntriesByType("navigation")[0].loadEventEnd / 1000')
    assert 0 < seconds < 10  # about 0.1 s on a machine that does nothing else
    assert browser.faults == []

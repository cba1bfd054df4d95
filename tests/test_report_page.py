"""The report in a real Chromium: no errors, no request, and everything that can be moved moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from rmt_rl.cli import main
from tests.browser import Opened, browser, opened
from tests.test_cli import TINY
from tests.test_plot import many_runs
from tests.tiny import work_folder

EVALUATE = ["--vary", "corridor_length=2,20", "--episodes", "4"]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The report of two groups, each of which plays an episode."""
    with work_folder(tmp_path_factory) as folder:
        for agent in ("rate", "bc"):
            assert main(["train", "tmaze", agent, *TINY, "--updates", "6", "--out", agent]) == 0
            assert main(["evaluate", agent, *EVALUATE]) == 0
        assert main(["report", "rate", "bc", "--at", "corridor_length=12", "--out", "report.html"]) == 0
        yield folder / "report.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def wide(chromium: Browser, page_file: Path) -> Opened:
    """The report in a wide window, opened once, since Plotly takes a second to load."""
    found = opened(chromium, page_file)
    found.page.wait_for_selector("#timeline .main-svg")
    return found


def move_to(page: Page, step: int) -> None:
    page.locator("#step").fill(str(step))


def becomes(page: Page, script: str, value: Any) -> bool:
    """Return True once a script's value is this one; False if it isn't within some seconds."""
    for _ in range(100):
        if page.evaluate(script) == value:
            return True
        page.wait_for_timeout(100)
    return False


def test_the_page_needs_no_network_and_has_no_errors(wide: Opened, page_file: Path) -> None:
    assert wide.page.locator(".chart .main-svg").count() > 4
    assert wide.page.locator("h2").all_inner_texts() == ["tmaze", "Memory over an episode", "Options", "Runs"]
    assert wide.complaints == []
    assert wide.requests == [page_file.as_uri()]


def test_the_slider_moves_the_episode(wide: Opened) -> None:
    page = wide.page
    place = page.locator("#place")
    steps = int(page.locator("#step").get_attribute("max") or 0) + 1
    assert steps >= 12
    frames = set()
    for step in (0, 1, steps - 1):
        move_to(page, step)
        assert page.evaluate("document.getElementById('timeline').layout.shapes[0].x0") == step + 1
        assert place.inner_text().startswith(f"step {step + 1} of {steps}")
        frames.add(page.locator("#frame").get_attribute("src"))
    assert len(frames) > 1
    page.locator("#back").click()
    assert place.inner_text().startswith(f"step {steps - 1} of")
    page.locator("#forward").click()
    assert place.inner_text().startswith(f"step {steps} of")
    move_to(page, steps - 3)
    page.locator("#play").click()
    expect(place).to_contain_text(f"step {steps} of {steps}")
    expect(page.locator("#play")).to_have_text("play")  # it stops at the end
    page.locator("#timeline .nsewdrag").first.click(position={"x": 5, "y": 40})
    assert wide.complaints == []


def test_actions_and_memory_are_shown_beside_the_frame(wide: Opened) -> None:
    page = wide.page
    move_to(page, 5)
    assert page.locator("#action .bar").count() == 4
    shares = [float(text) for text in page.locator("#action .bar span").all_inner_texts()]
    assert sum(shares) == pytest.approx(1, abs=0.02)
    assert page.locator("#action .taken").count() == 1
    assert "segment\n2 of" in page.locator("#state").inner_text()
    assert "change by this segment" in page.locator("#state").inner_text()
    page.locator("#run").select_option(index=1)
    assert "carries nothing" in page.locator("#state").inner_text()
    assert page.locator("#timeline").is_hidden()
    page.locator("#run").select_option(index=0)
    assert page.locator("#timeline .main-svg").first.is_visible()
    assert wide.complaints == []


def test_curves_can_be_hovered_chosen_and_hidden(wide: Opened) -> None:
    page = wide.page
    plot = page.locator("#scores-0 .nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.06, box["y"] + box["height"] / 2)
    page.wait_for_selector("#scores-0 .hoverlayer .legend")
    hovered = page.locator("#scores-0 .hoverlayer").text_content() or ""
    assert "rate" in hovered
    assert "(1 seed)" in hovered
    page.locator("#learning-0 .labels button").first.click()
    data = "document.querySelector('#learning-0 .chart').data"
    assert page.evaluate(f"{data}.filter(trace => trace.visible === false).length") > 0
    page.locator("select[data-chart='learning-0']").select_option("train/loss")
    assert page.evaluate("document.querySelector('#learning-0 .chart').layout.yaxis.title.text") == "train/loss"
    assert page.evaluate(f"{data}.filter(trace => trace.visible === false).length") == 0
    assert wide.complaints == []


def test_a_narrow_screen_scrolls_in_one_direction_in_both_colours(chromium: Browser, page_file: Path) -> None:
    found = opened(chromium, page_file, 375, "dark")
    page = found.page
    page.wait_for_selector("#timeline .main-svg")
    for step in (0, 5):
        move_to(page, step)
        assert page.evaluate("document.documentElement.scrollWidth") == 375
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "document.getElementById('timeline').layout.font.color"
    assert page.evaluate(paper) == "rgb(20, 23, 28)"
    assert page.evaluate(ink) == "#e4e7ec"
    page.emulate_media(color_scheme="light")
    assert becomes(page, paper, "rgb(255, 255, 255)")
    assert becomes(page, ink, "#1d2129")
    assert found.complaints == []


def test_many_groups_fit_and_markup_in_names_has_no_effect(chromium: Browser, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    runs = []
    for run in many_runs(tmp_path, 8, [90, evil]):
        config = (run / "config.toml").read_text(encoding="utf-8")
        (run / "config.toml").write_text(config.replace("valve-", evil), encoding="utf-8")
        runs.append(str(run))
    out = tmp_path / "many.html"
    assert main(["report", *runs, "--no-play", "--out", str(out)]) == 0
    found = opened(chromium, out, 375)
    page = found.page
    page.wait_for_selector("#scores-0 .main-svg")
    assert page.locator("#learning-0 .chart").count() == 8
    assert page.evaluate("document.querySelector('#scores-0 .chart').data[0].type") == "heatmap"
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.locator("img[src=x]").count() == 0
    assert evil in (page.locator("#scores-0 .xtick").last.text_content() or "")
    assert found.complaints == []
    assert found.requests == [out.as_uri()]

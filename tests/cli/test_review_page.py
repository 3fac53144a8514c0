"""The review page in Chromium: labels are typed and chosen, the button downloads exactly the changed rows."""

import csv
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mcti_core.cli.review_page import Item, write_review
from mcti_core.data.label_table import read_corrections
from mcti_core.tokens.token_set import UNKNOWN

pytestmark = pytest.mark.slow


@pytest.fixture
def page(tmp_path: Path):
    """Six images to review: two cats, a dog, one that is nothing, and one whose name a spreadsheet would take for a formula."""
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium: install it, or set CHROMIUM to such a browser")
    labels = {"0.png": "cat", "1.png": "cat", "a, b.png": "dog", "3.png": UNKNOWN, "4.png": "dog"}
    labels["5.png"] = " bird "  # as a folder may be called; no correction by itself
    items = [Item(str(tmp_path / name), label, f"{label}: 50 %") for name, label in labels.items()]
    for item in items:
        Image.new("RGB", (32, 32), "red").save(item.image)
    write_review(items, ("cat", "dog"), tmp_path / "review.html")
    with driver.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        opened = chromium.new_page()
        opened.problems = []
        opened.on("pageerror", lambda error: opened.problems.append(str(error)))
        opened.on("console", lambda message: opened.problems.append(message.text))
        opened.goto((tmp_path / "review.html").as_uri())
        yield opened
        assert opened.problems == []
        chromium.close()


def field(page, name: str):
    return page.locator("figure", has_text=name).locator("input")


def test_the_button_downloads_the_changed_labels(page, tmp_path):
    assert page.locator("figure > img").count() == 6
    assert page.get_by_role("button").is_disabled()
    field(page, "0.png").click()
    page.keyboard.type("dog")
    assert page.get_by_role("button").inner_text() == "Download corrections (1)"  # before the field is left
    page.keyboard.press("Tab")
    field(page, "a, b.png").fill("=cow")  # as choosing from the list does, without a key
    field(page, "3.png").fill(" cat ")
    field(page, "4.png").fill(UNKNOWN)
    field(page, "1.png").click()  # looked at, and left as it was
    with page.expect_download() as download:
        page.get_by_role("button", name="Download corrections (4)").click()
    assert download.value.suggested_filename == "corrections.csv"
    download.value.save_as(tmp_path / "corrections.csv")
    with open(tmp_path / "corrections.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    expected = {"3.png": "cat", "0.png": "dog", "a, b.png": "'=cow", "4.png": UNKNOWN}
    assert rows == [["image", "label"], *([str(tmp_path / name), label] for name, label in expected.items())]
    labels = read_corrections(tmp_path / "corrections.csv")
    assert sorted(labels.values()) == ["", "=cow", "cat", "dog"]


def test_the_button_is_within_a_narrow_window(page):
    page.set_viewport_size({"width": 400, "height": 800})
    box = page.get_by_role("button").bounding_box()
    assert box["x"] + box["width"] <= 400


def test_a_field_that_is_looked_at_is_no_correction(page):
    field(page, "0.png").click()
    page.keyboard.type("dog")
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    assert page.get_by_role("button").inner_text() == "Download corrections (0)"
    page.keyboard.press("Tab")
    assert field(page, "0.png").input_value() == "cat"
    assert page.get_by_role("button").is_disabled()

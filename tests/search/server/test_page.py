"""The search page in a headless Chromium: hits, marks, filters and keys."""

import shutil
import subprocess
import sys

import pytest

pytest.importorskip("lance", reason="the extra 'search' is not installed")
pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from sse.search.update import update_index  # noqa: E402  after the skips

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the PATH"),
    pytest.mark.slow,
]


@pytest.fixture
def page(notes, model, tmp_path):
    """The page of `sse serve`, opened."""
    (notes / "evil.txt").write_text("A red <script>document.title = 'owned'</script> square.")
    update_index(notes, tmp_path / "i", model)
    command = [sys.executable, "-m", "sse.cli.main", "serve", str(tmp_path / "i"), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    url = server.stderr.readline().split()[-1]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        opened.set_default_timeout(60_000)
        opened.goto(url)
        yield opened
        browser.close()
    server.terminate()
    server.wait(30)
    server.stderr.close()


def test_hits_marks_filters_and_keys(page):
    page.fill("#query", "red square")
    page.wait_for_selector("#hits li")
    assert "results in" in page.inner_text("#status")
    marks = {text.lower() for text in page.locator("mark").all_inner_texts()}
    assert {"red", "square"} <= marks
    assert page.title() == "Search" and "<script>" in page.inner_text("#hits")

    page.press("#query", "ArrowDown")
    page.keyboard.press("ArrowDown")
    assert (
        page.evaluate("[...document.querySelectorAll('#hits li')].indexOf(document.activeElement)")
        == 1
    )
    page.keyboard.press("Enter")
    assert page.locator("#hits li:nth-child(2) .whole").is_visible()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"

    page.fill("#where", "path = 'blue.html'")
    # by locators: the page's policy forbids the eval that wait_for_function needs
    page.locator("#hits li:first-child:last-child").wait_for()
    assert "blue.html" in page.inner_text("#hits")
    page.fill("#where", "nonsense >")
    page.wait_for_selector("#status.error")
    page.fill("#where", "")
    page.fill("#query", "☃")
    page.locator("#status", has_text="nothing found").wait_for()
    page.reload()
    assert page.input_value("#query") == "☃", "the address holds the search"

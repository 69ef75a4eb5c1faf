"""The page of `sse export --to web` in a headless Chromium."""

import json
import re
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase

import sse
from sse.model.quantise import write_compact
from sse.serving.encoder import Encoder
from sse.text.tokenizer import TextTokenizer
from sse.web.export import write_web
from tests.helpers.browser import chromium, served
from tests.helpers.samples import sentences

pytestmark = pytest.mark.slow
PASSAGES = [*sentences(400), "<script>document.title = 'owned'</script> a red text"]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def site(make_model, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in PASSAGES))
    write_web(sse.export(make_model(), tmp_path / "model"), tmp_path / "site", "int8", 16, texts)
    return tmp_path / "site"


@pytest.fixture
def opened(browser, site):
    """The function that opens the page of `site`, served."""
    page = browser.new_page()
    page.set_default_timeout(60_000)
    with served(site) as address:

        def open_page():
            page.goto(address)
            return page

        yield open_page
        page.close()


def error_of(page):
    page.wait_for_selector("#status.error")
    return page.inner_text("#status")


def test_the_page_finds_what_the_encoder_finds_while_one_types(opened, site):
    page = opened()
    page.wait_for_function("document.getElementById('status').textContent.includes('type to')")
    page.type("#query", "red square")
    page.wait_for_selector("#hits li")
    shown = page.locator("#hits li").all_inner_texts()
    model = Encoder(site / "model")
    scores = model.encode(PASSAGES) @ model.encode("red square")
    assert len(shown) == 10
    for text, score in zip(shown, np.sort(scores)[::-1], strict=False):
        assert abs(float(text.split()[0]) - score) < 0.001
    page.fill("#query", PASSAGES[-1])
    assert page.inner_text("#hits li:first-child").endswith(PASSAGES[-1])
    assert page.title() == "Search by meaning"


def test_the_page_searches_files_that_the_reader_chooses(opened, tmp_path):
    page = opened()
    own = tmp_path / "own.txt"
    own.write_text("A green triangle\nin two lines.\n\nA blue circle.\n")
    page.wait_for_selector("#files:enabled")
    page.set_input_files("#files", own)
    page.wait_for_function("document.getElementById('status').textContent.startsWith('2 passages')")
    page.fill("#query", "circle")
    assert page.locator("#hits li").count() == 2
    (tmp_path / "other.bin").write_bytes(b"\xff\x00")
    page.set_input_files("#files", tmp_path / "other.bin")
    assert error_of(page) == "other.bin is no UTF-8 text: choose other files"


def test_a_half_downloaded_table_is_visible(opened, site):
    table = site / "model/model.safetensors"
    table.write_bytes(table.read_bytes()[:1000])
    assert "model.safetensors has 1000 of" in error_of(opened())


def test_a_tokenizer_that_cannot_run_is_visible(opened, site, tokenizer, tmp_path):
    lower = Tokenizer.from_str(tokenizer.tokenizer.to_str())
    lower.normalizer = Lowercase()
    other = sse.export(sse.SSE(TextTokenizer(lower), 4, seed=0), tmp_path / "other")
    shutil.rmtree(site / "model")
    write_compact(other, site / "model", "int8")
    assert "its normalizer is Lowercase" in error_of(opened())


def test_a_missing_gate_is_visible(opened, site, make_model, tmp_path):
    other = sse.export(make_model("none"), tmp_path / "other")
    shutil.rmtree(site / "model")
    write_compact(other, site / "model", "int8")
    path = site / "model/sse_config.json"
    path.write_text(path.read_text().replace('"none"', '"dyt"'))
    assert "holds no dyt.alpha" in error_of(opened())


def test_a_half_downloaded_module_is_visible(opened, site):
    module = site / "sse.mjs"
    module.write_text(module.read_text("utf-8")[:5000], "utf-8")
    assert re.search(r"sse.mjs does not run \(.+\): load it again", error_of(opened()))


@pytest.mark.parametrize("name", ["sse.mjs", "passages.json", "model/tokenizer.json"])
def test_a_missing_file_is_visible(opened, site, name):
    (site / name).unlink()
    assert name.rsplit("/", 1)[-1] in error_of(opened())


def test_a_page_from_the_disk_says_how_to_serve_it(browser, site):
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    assert "run python -m http.server" in error_of(page)
    page.close()

"""Searches find what brute force finds, by meaning, by words and by both."""

import json
import shutil

import numpy as np
import pytest

from sse.common.errors import UserError
from sse.search import dense
from sse.search.dense import Vectors
from sse.search.index import Index
from sse.search.models import open_model
from sse.search.store import Store, settings_of
from sse.search.update import Options, update_index
from sse.serving.encoder import Encoder
from tests.helpers.samples import sentences

TEXTS = sentences(300, seed=3)


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """An index of a table."""
    folder = tmp_path_factory.mktemp("index")
    lines = [json.dumps({"text": t, "n": n}) + "\n" for n, t in enumerate(TEXTS)]
    (folder / "t.jsonl").write_text("".join(lines))
    update_index(folder / "t.jsonl", folder / "i", model, Options(keep=("n",)))
    return folder / "i"


@pytest.fixture
def opened(made):
    return Index(made)


def test_dense_search_finds_what_brute_force_finds(opened, encoder):
    queries = sentences(20, words=4, seed=9)
    scores = encoder.encode(queries) @ encoder.encode(TEXTS).T
    for hits, row in zip(opened.search(queries, k=5, mode="dense"), scores, strict=True):
        np.testing.assert_allclose([h.score for h in hits], np.sort(row)[::-1][:5], atol=1e-5)
        np.testing.assert_allclose([row[h.columns["n"]] for h in hits], [h.score for h in hits],
                                   atol=1e-5)  # fmt: skip
        assert [h.cosine for h in hits] == [h.score for h in hits]


def test_a_text_finds_itself_first_in_every_mode(opened):
    for mode in ("hybrid", "dense", "keyword"):
        for hits, n in zip(opened.search([TEXTS[3], TEXTS[255]], 3, mode), (3, 255), strict=True):
            assert (hits[0].columns["n"], hits[0].rank, hits[0].text) == (n, 1, TEXTS[n])


def test_every_keyword_hit_holds_a_word(opened):
    word = TEXTS[7].split()[0]
    hits = opened.search(word, k=300, mode="keyword")[0]
    assert len(hits) == sum(word in text.split() for text in TEXTS)
    assert all(word in hit.text for hit in hits)
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_a_condition_holds_for_every_hit_and_hides_no_other(opened):
    for mode in ("hybrid", "dense"):
        hits = opened.search("red circle", k=300, mode=mode, where="n >= 100 AND n < 120")[0]
        assert sorted(hit.columns["n"] for hit in hits) == list(range(100, 120))


def test_the_least_cosine_holds_for_every_hit(opened):
    hits = opened.search(TEXTS[0], k=300)[0]
    least = sorted(hit.cosine for hit in hits)[-5]
    some = opened.search(TEXTS[0], k=300, least=least)[0]
    assert {h.where for h in some} == {h.where for h in hits if h.cosine >= least}
    assert opened.search(TEXTS[0], least=1.1) == [[]]


@pytest.mark.parametrize("query", ["", "   ", "\n", "☃☃"])
def test_empty_queries_and_unknown_tokens_find_nothing(opened, query):
    for mode in ("hybrid", "dense", "keyword"):
        assert opened.search([query], mode=mode) == [[]]


def test_hits_are_grouped_by_document(notes, model, tmp_path):
    (notes / "long.md").write_text("# Long\n\n" + "".join(
        f"## Part {n}\n\nPart {n} of the red circle story.\n\n" for n in range(8)))  # fmt: skip
    update_index(notes, tmp_path / "i", model)
    opened = Index(tmp_path / "i")
    hits = opened.search("red circle story", k=3)[0]
    assert len({hit.path for hit in hits}) == 3
    (long,) = [hit for hit in hits if hit.path == "long.md"]
    assert len(long.more) == 3 and all("long.md:" in place for place in long.more)
    alone = opened.search("story", k=3, mode="keyword", grouped=False)[0]
    assert [hit.path for hit in alone] == ["long.md"] * 3


def test_a_hit_tells_title_headings_and_line(notes, model, tmp_path, monkeypatch):
    update_index(notes, tmp_path / "i", model)
    monkeypatch.chdir(tmp_path)
    (hit, *_) = Index("i").search("zorbium", mode="keyword")[0]
    assert (hit.title, hit.heading, hit.where) == ("Red", "Circle", "notes/red/one.md:5")
    assert hit.text == "A red circle of the kind zorbium."
    (by_heading,) = Index("i").search("circle", mode="keyword")[0]
    assert by_heading.path == "red/one.md"


def test_an_index_moves_with_its_model(notes, model, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(model, own)
    update_index(notes, tmp_path / "i", own)
    before = Index(tmp_path / "i").search("red square")
    shutil.rmtree(own)
    shutil.move(tmp_path / "i", tmp_path / "server")
    assert Index(tmp_path / "server").search("red square") == before
    shutil.move(notes, tmp_path / "gone")
    assert Index(tmp_path / "server").search("zorbium")[0][0].where == "red/one.md:5"


def test_another_model_is_refused_and_the_same_in_smaller_rows_is_not(made, model, tmp_path):
    import sse
    from sse.model.quantise import write_compact

    write_compact(model, tmp_path / "int8", "int8")
    assert Index(made, tmp_path / "int8").search("red")[0]
    other = sse.SSE(Encoder(model).tokenizer, 16, seed=5)
    with pytest.raises(UserError, match="made with another model than"):
        Index(made, sse.export(other, tmp_path / "other"))


def test_lancedb_opens_the_same_folder(made, encoder):
    lancedb = pytest.importorskip("lancedb", reason="lancedb is not installed")
    table = lancedb.connect(str(made)).open_table("passages")
    found = table.search(encoder.encode(TEXTS[5])).limit(1).to_list()
    assert found[0]["n"] == 5


BAD = [
    ({"k": 0}, "k 0"),
    ({"mode": "sparse"}, "mode 'sparse'"),
    ({"where": "nothing = 1"}, "columns are path, title, heading, text, n"),
    ({"where": "n >"}, "`where` 'n >'"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_one_line(opened, options, message):
    with pytest.raises(UserError, match=message) as error:
        opened.search("red", **options)
    assert "\n" not in str(error.value)


def test_no_flipped_bit_changes_a_result(made, tmp_path):
    queries = sentences(3, words=4, seed=9)
    expected = Index(made).search(queries, k=300)
    generator = np.random.default_rng(0)
    refused = 0
    for n in range(40):
        shutil.copytree(made, tmp_path / str(n), ignore=shutil.ignore_patterns(".lock"))
        files = [p for p in sorted((tmp_path / str(n)).rglob("*")) if p.is_file()]
        path = files[generator.integers(len(files))]
        content = bytearray(path.read_bytes())
        content[generator.integers(len(content))] ^= 1 << generator.integers(8)
        path.write_bytes(content)
        try:
            assert Index(tmp_path / str(n)).search(queries, k=300) == expected
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 20, "most files matter"


def test_vectors_that_are_no_numbers_are_named(made):
    opened = Index(made)
    opened._vectors = Vectors(np.full((len(opened), 16), np.nan, np.float32))
    with pytest.raises(UserError, match="vectors that are no numbers"):
        opened.search("red")


def test_the_scan_in_two_stages_finds_the_nearest(monkeypatch):
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((5000, 256)) / np.arange(1, 257) ** 0.5
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    monkeypatch.setattr(dense, "LARGE", 1000)
    engine = Vectors(vectors)
    for query in vectors[:20]:
        rows, scores = engine.nearest(query, 10)
        whole = vectors @ query
        np.testing.assert_allclose(scores, whole[rows], atol=1e-6)
        assert len(set(rows.tolist()) & set(np.argsort(-whole)[:10].tolist())) >= 9
        few = np.arange(100)
        assert set(engine.nearest(query, 100, few)[0].tolist()) == set(few.tolist())


def test_an_open_index_follows_updates_when_it_is_told(notes, model, tmp_path):
    update_index(notes, tmp_path / "i", model)
    opened = Index(tmp_path / "i")
    (notes / "new.md").write_text("A quuxium.")
    update_index(notes, tmp_path / "i")
    assert opened.search("quuxium", mode="keyword") == [[]]
    newer = opened.latest()
    assert newer.search("quuxium", mode="keyword")[0][0].path == "new.md"
    assert newer.latest() is newer


def test_the_model_of_a_foreign_folder_must_exist(made, tmp_path):
    store = Store(made)
    settings = settings_of(store.current(), "i")
    with pytest.raises(UserError, match="which is gone: give its new folder"):
        open_model(Store(tmp_path / "nowhere"), settings.__class__(
            **{**settings.__dict__, "model": str(tmp_path / "gone")}))  # fmt: skip


def test_the_exact_form_of_a_word_comes_before_its_stem(model, tmp_path):
    rows = ["baking bread", *("we bake and baked, bakes and bakers" for _ in range(20))]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    update_index(tmp_path / "t.jsonl", tmp_path / "i", model)
    for mode in ("keyword", "hybrid"):
        hits = Index(tmp_path / "i").search("baking", k=30, mode=mode)[0]
        assert hits[0].text == "baking bread" and len(hits) == 21

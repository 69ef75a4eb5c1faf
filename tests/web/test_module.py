"""The JavaScript module in Node gives the ids of Hugging Face and the vectors of `Encoder`."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import BertNormalizer, Lowercase

import sse
from sse.model.norm_forms import NORM_FORMS
from sse.model.quantise import write_compact
from sse.serving.encoder import Encoder
from sse.text.fast_tokenizer import HOSTILE, probes
from sse.text.tokenizer import TextTokenizer
from tests.helpers.tolerances import text_vectors

NODE = shutil.which("node")
VERSION = subprocess.run([NODE, "--version"], capture_output=True, text=True).stdout if NODE else ""
OLD = int(re.search(r"\d+|$", VERSION)[0] or 0) < 20
pytestmark = pytest.mark.skipif(OLD, reason="Node 20 or newer is not installed")
MODULE = Path(sse.__file__).parent / "web/page/sse.mjs"
TEXTS = [*HOSTILE, "red circle", "a \ud800 half of a pair", "large blue square. " * 50]


def run(folder, texts, **options):
    request = {"module": str(MODULE), "folder": str(folder), "texts": texts, "options": options}
    return node("run.mjs", request)


def node(script, request):
    """What a script of this folder answers."""
    done = subprocess.run(
        [NODE, Path(__file__).parent / script],
        input=json.dumps(request), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compact(model, path, rows="float32", dim=None):
    return write_compact(sse.export(model, path / "model"), path / "compact", rows, dim)


@pytest.mark.parametrize(
    "normaliser",
    [
        {},
        {"lowercase": False},
        {"lowercase": True, "strip_accents": False},
        {"lowercase": False, "strip_accents": True, "handle_chinese_chars": False},
        {"clean_text": False},
    ],
    ids=str,
)
def test_ids_equal_hugging_faces_on_hostile_texts(tokenizer, make_model, tmp_path, normaliser):
    # Each letter of the probes is a token, so that nothing hides behind [UNK].
    spec = json.loads(tokenizer.tokenizer.to_str())
    texts = [*TEXTS, *probes(tokenizer.tokenizer)]
    letters = sorted({letter for text in texts for letter in text if letter.isprintable()})
    vocab = spec["model"]["vocab"]
    for piece in (form for letter in letters for form in (letter, f"##{letter}")):
        vocab.setdefault(piece, len(vocab))
    own = Tokenizer.from_str(json.dumps(spec))
    own.normalizer = BertNormalizer(**normaliser)
    own.add_special_tokens(["[MASK]", "[CLS]", AddedToken("[C", normalized=False)])
    folder = compact(sse.SSE(TextTokenizer(own), 2, seed=0), tmp_path)
    batch = Encoder(folder).tokenizer.encode(texts)
    ids = run(folder, texts)["ids"]
    assert len(ids) == len(texts)
    for text, row, theirs in zip(texts, range(len(texts)), ids, strict=True):
        assert theirs == batch[row].tolist(), ascii(text)


@pytest.mark.slow
def test_words_equal_hugging_faces_for_each_letter_of_unicode(tokenizer):
    own, block = tokenizer.tokenizer, 0x1000
    request = {"module": str(MODULE), "spec": json.loads(own.to_str()), "block": block}
    hashes = node("words.mjs", request)
    for first, theirs in zip(range(0, 0x110000, block), hashes, strict=True):
        letters = [chr(c) for c in range(first, first + block) if not 0xD800 <= c < 0xE000]
        text = " ".join(f"a{c}b {c}\u0301{c}\u0323{c}Z" for c in letters)
        normal = own.normalizer.normalize_str(text)
        words = [word for word, _ in own.pre_tokenizer.pre_tokenize_str(normal)]
        ours = hashlib.sha256("\n".join(words).encode()).hexdigest()
        assert theirs == ours, f"from U+{first:04X}"


@pytest.mark.parametrize("norm", NORM_FORMS)
@pytest.mark.parametrize("rows", ["float32", "int8", "int4"])
def test_vectors_equal_the_encoders(make_model, tmp_path, norm, rows):
    folder = compact(make_model(norm), tmp_path, rows)
    model, short = sse.load(folder)[0], [text for text in TEXTS if len(text) < 90]
    for dim in (32, 7):
        vectors = run(folder, TEXTS, dim=dim)["vectors"]
        exact, _ = text_vectors(model, TEXTS, dim=dim)
        np.testing.assert_allclose(vectors, exact, rtol=0, atol=1e-6)
        # Of many equal tokens Encoder's float32 sum is the less exact one.
        vectors = run(folder, short, dim=dim)["vectors"]
        np.testing.assert_allclose(vectors, Encoder(folder).encode(short, dim), rtol=0, atol=1e-6)
    raw = run(folder, short, normalize=False)["vectors"]
    expected = Encoder(folder).encode(short, normalize=False)
    np.testing.assert_allclose(raw, expected, rtol=1e-6, atol=1e-6)


def test_most_tokens_and_prompts_are_the_models(tokenizer, make_model, tmp_path):
    cut = TextTokenizer(tokenizer.tokenizer, max_tokens=3)
    exported = sse.load(sse.export(sse.SSE(cut, 32, seed=0), tmp_path / "first"))
    exported.prompts = {"query": "red red ", "document": ""}
    folder = compact(exported, tmp_path)
    texts = ["circle square triangle", "a"]
    got = run(folder, texts, prompt="query")["vectors"]
    np.testing.assert_allclose(
        got, Encoder(folder).encode(texts, prompt_name="query"), rtol=0, atol=1e-6
    )
    assert run(folder, texts, prompt="no")["error"] == "prompt no: the model has query, document"


def damage(name, change):
    def apply(folder):
        path = folder / name
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)

    return apply


def halve(data):
    del data[len(data) // 2 :]


def flip(data):
    data[-1] ^= 1


@pytest.mark.parametrize(
    "spoil, message",
    [
        (damage("model.safetensors", halve), "model.safetensors has .* of .* bytes: load it again"),
        (damage("model.safetensors", flip), "model.safetensors is damaged: load it again"),
        (damage("tokenizer.json", halve), "tokenizer.json has .* of .* bytes"),
        (damage("sse_config.json", halve), "sse_config.json is no JSON, or only a part"),
        (lambda folder: (folder / "model.safetensors").unlink(), "safetensors cannot be read: .*"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(make_model, tmp_path, spoil, message):
    folder = compact(make_model(), tmp_path)
    spoil(folder)
    assert_refused(folder, message)


def assert_refused(folder, message):
    out = run(folder, ["red"])
    assert re.search(message, out.get("error", "")), out
    assert not out["defect"] and "\n" not in out["error"]


def changed(folder, **entries):
    path = folder / "sse_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


def test_unknown_parts_are_named(make_model, tmp_path):
    folder = compact(make_model("none"), tmp_path)
    assert_refused(
        changed(folder, norm="dyt"), "holds no dyt.alpha: a part of the model is missing"
    )
    assert_refused(changed(folder, norm="new"), "does not know the norm new")
    assert_refused(changed(folder, norm="none", rows="float16"), "int8 and int4 rows, not float16")
    assert_refused(tmp_path / "model", "write the folder with sse export --to web")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: setattr(t, "normalizer", Lowercase()), "normalizer is Lowercase"),
        (lambda t: setattr(t, "model", BPE({"a": 0}, [])), "model is BPE"),
        (lambda t: t.add_tokens([AddedToken("x y", normalized=True)]), "x y is normalized"),
    ],
)
def test_a_tokenizer_that_it_cannot_run_is_refused_by_its_part(
    tokenizer, tmp_path, change, message
):
    own = Tokenizer.from_str(tokenizer.tokenizer.to_str())
    change(own)
    assert_refused(compact(sse.SSE(TextTokenizer(own), 4, seed=0), tmp_path), message)

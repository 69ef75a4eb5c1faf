"""A grown vocabulary: words by frequency, old ids kept, the same ids in every engine."""

import json
from collections import Counter

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from sse.common.errors import UserError
from sse.text.fast_tokenizer import HOSTILE, choose_engine, probes
from sse.text.grow import MIN_COUNT, grow, pieces_of
from sse.text.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer

TEXTS = [
    "Kinase inhibitors, KINASE activity; kinase!",
    "İstanbul'da İSTANBUL istanbul İstanbul kınalı",
    "naïve café NAÏVE Café naive cafe",
    "漢字 漢字かな 漢字 👩‍👩‍👧‍👦 👍🏽 👍🏽 👍🏽 ☃︎☃︎ — — — ﬁ ﬁ ﬁ",
    "a\x00b a\x00b ab\u200b foo_bar foo_bar foo-bar [MASK] [MASK] [MASK] ##ing ##ing ##ing",
    "x" * 101 + " " + "x" * 101 + " " + "x" * 101 + " " + "y" * 100,
    "Ǆ ǆ ǅ ẞ ß STRASSE Straße straße Σίσυφος σίσυφος ΣΊΣΥΦΟΣ",
]


def based(lowercase=True, trailing=False):
    """WordPiece over single letters, with its added tokens first or behind the vocabulary."""
    letters = sorted({letter for text in TEXTS + [*map(str.lower, TEXTS)] for letter in text})
    letters = [letter for letter in letters if letter.isprintable() and letter != " "][:-9]
    vocab = ["[UNK]", *([] if trailing else ["[MASK]"])]
    vocab += [*letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(WordPiece({piece: i for i, piece in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken("[MASK]")])
    return TextTokenizer(tokenizer)


@pytest.fixture(scope="module", params=["uncased", "cased", "added tokens last"])
def base(request):
    return based(request.param != "cased", request.param == "added tokens last")


def grown_by(base, most=1_000, texts=TEXTS):
    return grow(base, [texts[:3], texts[3:]], most, progress=False)


def words_of(base, texts=TEXTS):
    """The definition: what normaliser and splitter make of whole texts, counted one by one."""
    tokenizer = base.tokenizer
    counts = Counter(
        word
        for text in texts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
            tokenizer.normalizer.normalize_str(text)
        )
    )
    known = tokenizer.get_vocab()
    fitting = [w for w in counts if counts[w] >= MIN_COUNT and w not in known and len(w) <= 100]
    return sorted(fitting, key=lambda word: (-counts[word], word))


def test_the_new_tokens_are_the_most_frequent_words_and_old_ids_stay(base):
    grown, expected = grown_by(base), words_of(base)
    new = range(base.vocab_size, grown.vocab_size)
    assert [grown.tokenizer.id_to_token(number) for number in new] == expected
    assert len(expected) > 5
    assert base.tokenizer.get_vocab().items() <= grown.tokenizer.get_vocab().items()
    some = grown_by(base, 3)
    assert [some.tokenizer.id_to_token(base.vocab_size + i) for i in range(3)] == expected[:3]
    assert some.vocab_size == base.vocab_size + 3


def test_a_grown_word_is_one_token(base):
    grown = grown_by(base)
    for number in range(base.vocab_size, grown.vocab_size):
        word = grown.tokenizer.id_to_token(number)
        assert [piece.id for piece in grown.tokenizer.model.tokenize(word)] == [number]
    assert len(grown.encode(TEXTS).ids) < len(base.encode(TEXTS).ids)


def test_all_ways_give_hugging_faces_ids_after_a_round_through_the_file(base, tmp_path):
    grown_by(base).save(tmp_path / "tokenizer.json")
    texts = [*TEXTS, *HOSTILE, *probes(base.tokenizer)]
    reference = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    expected = [each.ids for each in reference.encode_batch_fast(texts, add_special_tokens=False)]
    slow = load_tokenizer(str(tmp_path), fast=False)
    assert slow.words is not None, "the word cache takes it"
    assert [slow.encode([text]).ids.tolist() for text in texts] == expected
    batch = slow.encode(texts)
    assert [batch[row].tolist() for row in range(len(texts))] == expected
    assert reference.get_vocab() == grown_by(base).tokenizer.get_vocab()


def test_nanotoken_takes_a_grown_vocabulary_and_gives_the_same_ids():
    pytest.importorskip("nanotoken", reason="the extra 'fast' is not installed")
    grown = grown_by(train_tokenizer(TEXTS, 300, progress=False), 40)
    engine = choose_engine(grown.tokenizer)
    assert engine.name == "nanotoken", engine.reason
    texts = [*TEXTS, *HOSTILE]
    expected = grown.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    batch = engine.fast.encode(texts, parallel=False)
    assert [batch[row].tolist() for row in range(len(texts))] == [each.ids for each in expected]


def test_pieces_are_what_the_base_makes_of_each_word(base):
    grown = grown_by(base)
    pieces = pieces_of(base, grown)
    assert len(pieces) == grown.vocab_size - base.vocab_size
    unknown = 0
    for row in range(len(pieces)):
        word = grown.tokenizer.id_to_token(base.vocab_size + row)
        tokens = [base.tokenizer.id_to_token(number) for number in pieces[row]]
        joined = "".join(token.removeprefix("##") for token in tokens)
        assert joined == (word if len(pieces[row]) else "")
        unknown += not len(pieces[row])
    assert pieces.ids.max() < base.vocab_size and 0 < unknown < len(pieces)


def test_growing_does_not_depend_on_how_texts_come_in_batches(base):
    together = grow(base, [TEXTS], 9, progress=False)
    apart = grow(base, [[text] for text in TEXTS[::-1]], 9, progress=False)
    assert together.fingerprint == apart.fingerprint


def test_what_a_file_asks_for_besides_stays(base):
    before = json.loads(base.tokenizer.to_str())
    after = json.loads(grown_by(base).tokenizer.to_str())
    assert after["model"].pop("vocab") != before["model"].pop("vocab")
    assert after == before


def test_bad_input_is_one_line(base):
    for texts in ([], [""], [" ", "\n"]):
        with pytest.raises(UserError, match="^grow_vocab is 5, but the texts hold no word"):
            grow(base, [texts], 5, progress=False)
    other = TextTokenizer(Tokenizer(BPE()))
    with pytest.raises(UserError, match="needs a WordPiece tokenizer .* this one has BPE: give"):
        grow(other, [TEXTS], 5, progress=False)


def test_lone_surrogates_are_no_words(base):
    grown = grow(base, [["\ud800 \udfff"] * 3 + ["kinase"] * 3], 5, progress=False)
    assert np.array_equal(grown.encode(["kinase"]).ids, [base.vocab_size])
    assert grown.vocab_size == base.vocab_size + 1

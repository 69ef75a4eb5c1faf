"""nanotoken in the place of Hugging Face's tokenizers, once it has proven equal.

nanotoken (extra `fast`) makes WordPiece ids much faster, but supports only part of what a
tokenizer.json may demand. So both encode a few thousand texts made to find differences first. One
different id, and Hugging Face's tokenizer runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sse.common.errors import first_line
from sse.text.token_batch import TokenBatch

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INSTALL = "pip install 'stable-static-embedding[fast]'"

# What a normaliser, a splitter or a WordPiece model can get wrong, one kind per line.
HOSTILE = (
    "", " ", "\t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000",
    "a\x00b\x01c\x7fd\x80e\x9ff\ufeffg\ufffdh\u200bi\u200cj\u200dk\u2060l\u00adm\u061cn\u200eo",
    "Ünïcödé ÀÉÎÕÜ naïve café Ångström ŠĐŽ ǅ ǆ ǈ ß ẞ İ ı I i ſ K Å Ω Σ σ ς ŉ ǰ",
    "e\u0301 n\u0303 o\u0308\u0304 a\u0315\u0300\u05ae\u0062 \u0301lone \u1ab0 \u20d0x \ufe20y",
    "\ufb01\ufb02\ufb03 \u2460\u2082\u00b2\u00bd \u33a5 \uff21\uff42\uff11 \u2122 \u212b \u1e9b",
    "漢字かな交じり文 カタカナ ｶﾀｶﾅ 中文字符。「引用」 𠀀𠮷𪚥 \uf900\u2f800 〇々〆 \u3007 ㍿",
    "한국어 텍스트 \u1112\u1161\u11ab \uac00\u11a8 ㅎㅏㄴ",
    "العربية ١٢٣ ﷺ لا \u0640 עברית שָׁלוֹם فارسی \u200fabc\u202e cba",
    "हिन्दी क्षत्रिय தமிழ் ไทยภาษา ខ្មែរ မြန်မာ བོད་ཡིག ᠮᠣᠩᠭᠣᠯ አማርኛ ქართული ᲥᲐᲠ Ꭰꭰ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 1️⃣ 🇩🇪🇫 ☃︎ \U0001f9d1\U0001f3ff \U000e0067\U000e007f \U0001d54f",
    "\ue000\U000f0000\U0010fffd \ufdd0\ufffe\U0001ffff \u0378 \U000e0001 \u2066x\u2069 \u180e",
    "don't can\u2019t it`s --- ... !?#$%&*+/=<>@^_|~ {[(a)]} \"q\" \u201cq\u201d $1,000.00",
    "http://user:pw@example.com:80/a-b_c?d=e&f=%20#g me@example.org C++ C# .NET x86_64 v1.2.3-rc1",
    "def f(x): return x**2  # comment\n\tif a != b and c<=d: pass\r\n\\n \\u0041 \\x00",
    "[CLS] [SEP] [PAD] [UNK] [MASK] [cls] [ CLS ]",
    "[CLS][SEP]x[MASK]y ##ing ing## # ## ### <s> </s> [unused1]",
    "x" * 99, "x" * 100, "x" * 101, "é" * 100, "é" * 101, "e\u0301" * 60, "漢" * 120, "-" * 120,
    "ab" * 5_000, "the " * 2_000, "Straße " * 40, "a" + "\u0301" * 300 + "b", "\u200d" * 150,
)  # fmt: skip
VOCABULARY_PROBES = 400
MAX_GAP = 1_000_000


@dataclass(frozen=True)
class Engine:
    """The choice of a tokenizer."""

    name: str  # `nanotoken` or `tokenizers`
    reason: str  # why it was chosen, in a few words
    fast: FastTokenizer | None = None


class FastTokenizer:
    """nanotoken's tokenizer of a tokenizer.json, whose content is `serialised`."""

    def __init__(self, serialised: str) -> None:
        import nanotoken

        self._serialised = serialised
        self._tokenizer = nanotoken.Tokenizer.from_json(serialised)
        self._backend = self._tokenizer.backend

    def __reduce__(self) -> tuple[type[FastTokenizer], tuple[str]]:
        # nanotoken's objects can neither be copied nor sent to another process.
        return FastTokenizer, (self._serialised,)

    def encode(self, texts: Sequence[str], parallel: bool | None = None) -> TokenBatch:
        """Token ids of `texts` (int32), without special tokens.

        `parallel` decides whether to use all cores; by default outside forked processes.
        """
        if parallel is None:
            batch = self._tokenizer.encode_batch(texts, add_special_tokens=False)
            ids, offsets = batch.ids, batch.offsets
        else:
            ids, offsets = self._backend.encode_batch(
                texts, add_special_tokens=False, parallel=parallel
            )
        return TokenBatch(ids.view(np.int32), offsets)


def choose_engine(tokenizer: Tokenizer) -> Engine:
    """Nanotoken if it is installed and equal on every probe, otherwise Hugging Face's."""
    try:
        import nanotoken  # noqa: F401
    except ImportError:
        return Engine("tokenizers", f"nanotoken is not installed: {INSTALL} is faster")
    try:
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        if highest > 2 * tokenizer.get_vocab_size() + MAX_GAP:  # nanotoken's tables hold the gap
            return Engine("tokenizers", f"a token has the id {highest:,}")
        tokenizer.encode_batch_fast(HOSTILE[:4])  # one that panics says so at length, each time
        fast = FastTokenizer(tokenizer.to_str())
        texts = probes(tokenizer)
        batch = fast.encode(texts, parallel=False)
        expected = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        return Engine("tokenizers", f"the probe of nanotoken fails ({first_line(error)})")
    if len(batch) != len(texts):
        return Engine("tokenizers", "nanotoken gives another number of texts")
    for row, encoding in enumerate(expected):
        if batch[row].tolist() != encoding.ids:
            return Engine("tokenizers", f"nanotoken gives other ids for {texts[row][:40]!a}")
    return Engine("nanotoken", f"the same ids on {len(texts):,} probes", fast)


def probes(tokenizer: Tokenizer) -> list[str]:
    """Texts likely to show a difference: hostile Unicode, all blocks, the vocabulary itself."""
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    step = max(1, size // VOCABULARY_PROBES)
    words = [tokenizer.id_to_token(i) or "" for i in range(0, size, step)]
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    texts = [*HOSTILE, *words]
    texts += [f"x{word}y {word.upper()} ,{word}." for word in added[:100]]
    texts += [" ".join(words[i : i + 8]).replace("##", "") for i in range(0, len(words), 8)]
    # Dense where scripts are (the first 0x3400 and the compatibility forms), sparse elsewhere.
    codes = [*range(1, 0x3400, 9), *range(0x3400, 0xF900, 211), *range(0xF900, 0x10000, 7)]
    codes += [*range(0x10000, 0x20000, 97), *range(0x20000, 0x110000, 4099)]
    points = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    return texts + [f"a{point}b {point}{point} Z{point}\u0301" for point in points]

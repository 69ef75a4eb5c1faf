"""A token counts once in each text that holds it."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sse.text.frequencies import count_tokens
from sse.text.token_batch import TokenBatch, offsets_of

TEXTS = st.lists(st.lists(st.integers(0, 8), max_size=12), max_size=12)


@given(st.lists(TEXTS, max_size=4))
def test_counts_equal_those_of_sets(batches):
    parts = [
        TokenBatch(np.array(sum(texts, []), np.uint16), offsets_of([len(t) for t in texts]))
        for texts in batches
    ]
    counted = count_tokens(parts, 9)
    expected = Counter(token for texts in batches for text in texts for token in set(text))
    assert counted.found.tolist() == [expected[token] for token in range(9)]
    assert counted.texts == sum(map(len, batches))

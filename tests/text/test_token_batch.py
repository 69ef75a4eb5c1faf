"""Token batches gather and concatenate like lists of lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sse.text.token_batch import TokenBatch, concatenate

lists = st.lists(st.lists(st.integers(0, 60_000), max_size=6), min_size=1, max_size=12)


def batch(rows):
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return TokenBatch(np.array([i for row in rows for i in row], np.uint16), offsets)


def unpack(batch):
    return [batch[i].tolist() for i in range(len(batch))]


@given(lists, st.data())
def test_take_equals_indexing(rows, data):
    picks = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=20))
    assert unpack(batch(rows).take(np.array(picks, np.int64))) == [rows[i] for i in picks]


@given(st.lists(st.just([]) | lists, min_size=1, max_size=4))
def test_concatenate_equals_joining_also_where_a_part_has_no_text(parts):
    joined = concatenate([batch(rows) for rows in parts])
    assert unpack(joined) == [row for rows in parts for row in rows]
    assert joined.lengths.tolist() == [len(row) for rows in parts for row in rows]

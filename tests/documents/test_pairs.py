"""Pairs made of documents."""

from sse.documents.document import Document, Paragraph, Section
from sse.documents.pairs import KINDS, PER_DOCUMENT, make_pairs

FEED = (
    "Feed the starter every day. Keep it in a cold and quiet place. Throw a half of all of it away."
)
SOUR = "It smells sour when it starves. Flour and water mend that within two or three days. Wait."
LICENCE = "This page may be copied by all who name its author. No warranty is given for the bread."


def document(name, *sections, title="Bread without yeast"):
    made = [Section(tuple(h), tuple(Paragraph(t, 1) for t in texts)) for h, texts in sections]
    return Document(name, title, tuple(made))


def pairs_of(*documents, kinds=KINDS):
    return [
        (p.kind, p.anchor, p.positive) for _, found in make_pairs(documents, kinds) for p in found
    ]


def test_a_section_gives_a_pair_of_each_kind_questions_first():
    found = pairs_of(document("a", ([], [FEED]), (["How do I keep it?"], [SOUR])))
    assert [kind for kind, _, _ in found] == sorted((k for k, _, _ in found), key=KINDS.index)
    assert ("question", "How do I keep it?", SOUR) in found
    assert ("heading", "Bread without yeast How do I keep it?", SOUR) in found
    assert ("title", "Bread without yeast", FEED) in found
    assert ("first", "Feed the starter every day.", FEED.split(". ", 1)[1]) in found
    of_feed = [(anchor, rest) for kind, anchor, rest in found if kind == "neighbour"][:2]
    assert all(anchor in FEED for anchor, _ in of_feed)
    for anchor, rest in of_feed:
        assert anchor not in rest
        assert sorted((anchor + " " + rest).split()) == sorted(FEED.split())


def test_only_the_kinds_asked_for_are_made():
    found = pairs_of(document("a", (["Care of it"], [FEED])), kinds=["first", "heading"])
    assert [kind for kind, _, _ in found] == ["heading", "first"]


def test_what_many_documents_share_is_left_out():
    shared = [document(name, ([], [FEED.replace("day", name), LICENCE])) for name in "abcd"]
    texts = " ".join(text for _, *both in pairs_of(*shared) for text in both)
    assert "Feed" in texts
    assert "warranty" not in texts
    assert "warranty" in str(pairs_of(document("a", ([], [LICENCE]))))


def test_a_near_duplicate_gives_no_pairs():
    one, two = document("a", ([], [FEED])), document("b", ([], [FEED.upper().replace(" ", "  ")]))
    assert pairs_of(one, two) == pairs_of(one)


def test_listings_are_no_sentences_and_names_of_files_no_titles():
    code = Section(("Care of it",), (Paragraph("Run this. Then that. And more of it.", 1, True),))
    assert pairs_of(Document("a", "IMG_0012", (code,))) == []


def test_a_long_document_gives_a_bounded_number_of_pairs():
    words = ["".join(chr(97 + int(digit)) for digit in str(n)) for n in range(900)]
    sections = [([f"Part {w} of many"], [f"Of {w} and {w} this tells. {FEED}"]) for w in words]
    assert len(pairs_of(document("a", *sections))) == PER_DOCUMENT

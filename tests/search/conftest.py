"""A model and a folder of documents."""

import pytest

import sse
from sse.serving.encoder import Encoder

DOCUMENTS = {
    "red/one.md": "# Red\n\n## Circle\n\nA red circle of the kind zorbium.\n",
    "red/two.txt": "Two red squares.\n\nA blue square beside them.\n",
    "blue.html": "<title>Blue</title><p>The blue triangle stands alone.</p>",
    "green.rst": "Green\n=====\n\nGreen grass.\n\nMore\n----\n\nA green hill, a green tree.\n",
}


@pytest.fixture(scope="session")
def model(tokenizer, tmp_path_factory):
    """The folder of a tiny model."""
    pytest.importorskip("lance", reason="the extra 'search' is not installed")
    return sse.export(sse.SSE(tokenizer, 16, seed=0), tmp_path_factory.mktemp("m") / "model")


@pytest.fixture(scope="session")
def encoder(model):
    return Encoder(model)


@pytest.fixture
def notes(tmp_path):
    """The documents in a folder."""
    folder = tmp_path / "notes"
    for name, text in DOCUMENTS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder

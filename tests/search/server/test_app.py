"""The server answers as its API says, and refuses what exceeds its limits."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest

pytest.importorskip("lance", reason="the extra 'search' is not installed")
pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
testclient = pytest.importorskip(
    "fastapi.testclient", reason="a client for tests is not installed", exc_type=ImportError
)

from sse.search.index import Index  # noqa: E402  after the skips
from sse.search.server import app as app_module  # noqa: E402
from sse.search.server.app import make_app  # noqa: E402
from sse.search.server.guard import Limits  # noqa: E402
from sse.search.update import update_index  # noqa: E402

URL = "http://127.0.0.1"


@pytest.fixture
def index(notes, model, tmp_path):
    update_index(notes, tmp_path / "i", model)
    return Index(tmp_path / "i")


@pytest.fixture
def client(index):
    with testclient.TestClient(make_app(index), base_url=URL) as opened:
        yield opened


def test_search_answers_as_the_library_does(client, index):
    hits = index.search("red circle", k=2)[0]
    by_address = client.get("/search", params={"query": "red circle", "k": 2}).json()
    by_body = client.post("/search", json={"query": ["red circle"], "k": 2}).json()[0]
    for answer in (by_address, by_body):
        assert answer["query"] == "red circle"
        for hit, own in zip(answer["hits"], hits, strict=True):
            assert (hit["where"], hit["text"], hit["rank"]) == (own.where, own.text, own.rank)
            marked = [hit["snippet"][start:end].lower() for start, end in hit["marks"]]
            assert {"red", "circle"} >= set(marked) != set()
    some = client.post("/search", json={"query": "red", "where": "path = 'blue.html'"}).json()
    assert [hit["path"] for hit in some["hits"]] == ["blue.html"]
    assert client.get("/search", params={"query": " "}).json()["hits"] == []


def test_embeddings_are_the_encoders_in_both_formats(client, encoder):
    texts = ["red circle", ""]
    floats = client.post("/v1/embeddings", json={"input": texts, "model": "any"}).json()
    vectors = [item["embedding"] for item in floats["data"]]
    np.testing.assert_array_equal(np.array(vectors, np.float32), encoder.encode(texts))
    assert [item["index"] for item in floats["data"]] == [0, 1]
    assert floats["usage"]["prompt_tokens"] == len(encoder.tokenizer.encode(texts).ids)
    body = {"input": "red", "dimensions": 8, "encoding_format": "base64"}
    (item,) = client.post("/v1/embeddings", json=body).json()["data"]
    vector = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
    np.testing.assert_array_equal(vector, encoder.encode("red", dim=8))


BAD = [
    ("/v1/embeddings", {}, 400, "input: Field required"),
    ("/v1/embeddings", {"input": [1, 2]}, 400, "input"),
    ("/v1/embeddings", {"input": []}, 400, "0 texts: give 1 to 3"),
    ("/v1/embeddings", {"input": ["a"] * 4}, 400, "4 texts: give 1 to 3"),
    ("/v1/embeddings", {"input": "a", "dimensions": 17}, 400, "no prefix of the model's 16"),
    ("/v1/embeddings", {"input": "a", "prompt_name": "x"}, 400, "prompt 'x'"),
    ("/v1/embeddings", {"input": "a" * 3000}, 413, "a body of more than 2,000 bytes"),
    ("/search", {"query": "a", "where": "n >"}, 400, "`where` 'n >'"),
    ("/search", {"query": "a", "k": 0}, 400, "k: Input should be greater than or equal to 1"),
    ("/search", {"query": "a", "k": 5000}, 400, "k 5000: give at most 1,000"),
    ("/search", {"query": "a", "frob": 1}, 400, "frob: Extra inputs are not permitted"),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), BAD, ids=[b[3] for b in BAD])
def test_bad_requests_are_one_line(index, path, body, status, message):
    limits = Limits(body=2_000, batch=3)
    with testclient.TestClient(make_app(index, None, limits), base_url=URL) as client:
        answer = client.post(path, json=body)
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True)
    assert "\n" not in answer.json()["error"]["message"]


def test_a_body_without_a_declared_length_is_counted(index):
    limits = Limits(body=2_000)
    with testclient.TestClient(make_app(index, None, limits), base_url=URL) as client:
        parts = iter([b'{"input": "', b"a" * 3000, b'"}'])
        assert client.post("/v1/embeddings", content=parts).status_code == 413


def test_a_request_that_takes_too_long_is_given_up(index, monkeypatch):
    monkeypatch.setattr(index, "search", lambda *args: time.sleep(1) or [[]])
    limits = Limits(seconds=0.05)
    with testclient.TestClient(make_app(index, None, limits), base_url=URL) as client:
        answer = client.get("/search", params={"query": "red"})
    assert (answer.status_code, "no answer within" in answer.text) == (503, True)


def test_a_token_guards_all_but_page_and_health(index):
    with testclient.TestClient(make_app(index, token="secret"), base_url=URL) as client:
        codes = [client.get(path).status_code for path in ("/", "/health", "/metrics", "/search")]
        assert codes == [200, 200, 401, 401]
        good = {"Authorization": "Bearer secret"}
        assert client.get("/search", params={"query": "red"}, headers=good).status_code == 200
        bad = {"Authorization": "Bearer secreT"}
        assert client.get("/metrics", headers=bad).status_code == 401


def test_a_foreign_host_name_is_refused(client):
    assert client.get("/search", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/health", headers={"Host": "localhost:8000"}).status_code == 200


def test_the_page_comes_from_the_package_and_loads_nothing_else(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("page.js", "page.css"):
        assert name in page.text and client.get(f"/{name}").status_code == 200
    assert "http" not in page.text and "innerHTML" not in client.get("/page.js").text


def test_health_and_metrics_tell_what_is_served(client, index):
    facts = client.get("/health").json()
    assert (facts["status"], facts["passages"], facts["dim"]) == ("ok", len(index), 16)
    client.get("/search", params={"query": "red"})
    client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'sse_request_seconds_count{path="/search",status="200"} 1.0' in text
    assert 'path="other",status="404"' in text and "sse_queries_total 1.0" in text


def test_a_model_alone_gives_embeddings_and_no_search(encoder):
    with testclient.TestClient(make_app(None, encoder), base_url=URL) as client:
        assert client.post("/v1/embeddings", json={"input": "red"}).status_code == 200
        answer = client.get("/search", params={"query": "red"})
        assert (answer.status_code, "no index is served" in answer.text) == (400, True)


def test_a_running_server_follows_updates(notes, index, monkeypatch):
    monkeypatch.setattr(app_module, "POLL", 0.05)
    with testclient.TestClient(make_app(index), base_url=URL) as client:
        (notes / "new.md").write_text("A quuxium.")
        update_index(notes, index.name)
        deadline, query = time.time() + 30, {"query": "quuxium", "mode": "keyword"}
        while not (hits := client.get("/search", params=query).json()["hits"]):
            assert time.time() < deadline
            time.sleep(0.05)
    assert hits[0]["path"] == "new.md"


@pytest.fixture
def served(index):
    """The address of `sse serve`, and its process."""
    command = [sys.executable, "-m", "sse.cli.main", "serve", index.name, "--port", "0"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    line = process.stderr.readline()
    assert line.startswith("serving at http://127.0.0.1:"), line
    yield line.split()[-1], process
    process.kill()
    process.wait()
    process.stderr.close()


def test_the_client_of_openai_reads_our_embeddings(served, encoder):
    openai = pytest.importorskip("openai", reason="openai is not installed")
    client = openai.OpenAI(base_url=f"{served[0]}v1", api_key="none", max_retries=0)
    texts = ["red circle", "a blue square"]
    made = client.embeddings.create(model="sse", input=texts, dimensions=8)
    vectors = np.array([item.embedding for item in made.data], np.float32)
    np.testing.assert_allclose(vectors, encoder.encode(texts, dim=8), atol=1e-7)
    whole = client.embeddings.create(model="sse", input="red", encoding_format="float")
    np.testing.assert_allclose(whole.data[0].embedding, encoder.encode("red"), atol=1e-7)
    assert [model.id for model in client.models.list()]
    with pytest.raises(openai.BadRequestError, match="no prefix of the model's 16"):
        client.embeddings.create(model="sse", input="red", dimensions=99)


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_once_requests_are_answered(served, number):
    url, process = served
    body = json.dumps({"input": ["red circle " * 200] * 2000}).encode()
    answers = []

    def ask():
        request = urllib.request.Request(f"{url}v1/embeddings", body)
        with contextlib.suppress(OSError):  # the signal came before the request
            answers.append(urllib.request.urlopen(request, timeout=60).status)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.05)
    process.send_signal(number)
    asking.join(60)
    assert answers in ([200], []), "answered whole, or the signal came before the request"
    assert process.wait(30) == 0
    assert process.stderr.read() == ""


def test_answers_leave_at_once(index, monkeypatch):
    """asyncio sets TCP_NODELAY on connections of a socket whose protocol is named."""
    from sse.search.server import run

    seen = []
    monkeypatch.setattr(
        run.uvicorn.Server, "run", lambda self, sockets: seen.append(sockets[0].proto)
    )
    run.serve(index, None, "127.0.0.1", 0, run.Limits())
    assert seen == [socket.IPPROTO_TCP]


def test_a_taken_port_is_one_line(index, served, capsys):
    from sse.cli.main import main

    port = served[0].rsplit(":", 1)[1].strip("/")
    assert main(["serve", index.name, "--port", port]) == 2
    told = capsys.readouterr().err
    assert f"127.0.0.1:{port}: Address already in use: give another --host or --port" in told

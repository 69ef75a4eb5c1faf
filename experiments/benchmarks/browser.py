"""One query in a headless Chromium: our module beside onnxruntime-web and transformers.js.

    npm install --ignore-scripts @huggingface/transformers
    python -m experiments.benchmarks.browser [--model DIR] [--packages node_modules]

The systems take turns in one page, on queries that none has seen. Each vector is compared with
`Encoder`'s. onnxruntime-web gets token ids, so its time is without a tokenizer. The page's clock
shows 0.1 ms, so a time is that of a round's queries, divided by their number.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import sse
from experiments.benchmarks import harness
from experiments.benchmarks.encoding import random_model, texts_of
from sse.common.errors import UserError, one_line
from sse.serving.encoder import Encoder
from sse.web.export import write_web

SYSTEMS = {  # system: (model, dimensions)
    "sse.mjs, int8": ("int8", 512),
    "sse.mjs, int4": ("int4", 256),
    "onnxruntime-web, int8, no tokenizer": ("int8", 512),
    "transformers.js, int8": ("int8", 512),
}
PAGE = """
<script type="module">
const { texts, ids, rounds, size } = await (await fetch("queries.json")).json();
const make = {
  "sse.mjs, int8": () => ours("int8"),
  "sse.mjs, int4": () => ours("int4"),
  "onnxruntime-web, int8, no tokenizer": async () => {
    const ort = await import("./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs");
    ort.env.wasm.numThreads = 1;
    const session = await ort.InferenceSession.create("onnx-model/onnx/model_int8.onnx");
    const tensor = (values) => new ort.Tensor("int64", values, [1, values.length]);
    return async (n) => {
      const input_ids = tensor(BigInt64Array.from(ids[n], BigInt));
      const attention_mask = tensor(new BigInt64Array(ids[n].length).fill(1n));
      const { sentence_embedding } = await session.run({ input_ids, attention_mask });
      return unit(sentence_embedding.data);
    };
  },
  "transformers.js, int8": async () => {
    const lib = "./node_modules/@huggingface/transformers/dist/transformers.min.js";
    const { env, pipeline } = await import(lib);
    Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: "/" });
    env.backends.onnx.wasm.wasmPaths = `${location.origin}/node_modules/onnxruntime-web/dist/`;
    const device = "wasm", dtype = "int8";
    const extract = await pipeline("feature-extraction", "onnx-model", { dtype, device });
    return async (n) => (await extract(texts[n], { pooling: "mean", normalize: true })).data;
  },
};
async function ours(rows) {
  const { Encoder } = await import("./sse.mjs");
  const model = await Encoder.load(rows);
  return (n) => model.encode(texts[n]);
}
function unit(x) {
  const length = Math.hypot(...x);
  return x.map((value) => value / length);
}
const out = { opened: {}, us: {}, vectors: {} };
try {
  const systems = {};
  for (const [name, open] of Object.entries(make)) {
    const start = performance.now();
    systems[name] = await open();
    await systems[name](0);
    out.opened[name] = performance.now() - start;
    [out.us[name], out.vectors[name]] = [[], []];
    for (let n = 0; n < 20; n++) out.vectors[name].push([...(await systems[name](n))]);
  }
  for (let round = -1; round < rounds; round++) // round -1 warms up
    for (const [name, encode] of Object.entries(systems)) {
      const first = (round + 1) * size, start = performance.now();
      if (name.startsWith("sse")) for (let n = first; n < first + size; n++) encode(n);
      else for (let n = first; n < first + size; n++) await encode(n);
      if (round >= 0) out.us[name].push(((performance.now() - start) / size) * 1000);
    }
} catch (error) {
  out.error = String(error);
}
window.out = out;
</script>
"""


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure in a browser, print a table, write JSON."""
    made = harness.parser("browser", __doc__)
    add = made.add_argument
    add("--model", metavar="DIR", help="a model folder of 512 dimensions (default: random, dyt)")
    add("--packages", default=".venv-compat/transformers.js/node_modules", metavar="DIR")
    add("--rounds", type=int, default=11)
    add("--size", type=int, default=200, help="queries per round")
    made.set_defaults(texts=None, queries=None)
    args = harness.parse(made, arguments, {"rounds": 2, "size": 30}, "rounds", "size")
    packages = Path(args.packages).resolve()
    if not (packages / "@huggingface/transformers").is_dir():
        raise UserError(f"--packages {args.packages}: it holds no @huggingface/transformers")
    passages, queries = texts_of(args)
    queries = queries[: args.size * (args.rounds + 1)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = Path(args.model) if args.model else random_model(root, passages)
        prepare(root, model, packages)
        write_queries(root, queries, args)
        measured = in_chromium(root)
        measured["difference"] = differences(root, queries, measured.pop("vectors"))
    harness.finish({**harness.what_ran(), **measured}, table(measured), args.json)


def prepare(root: Path, model: Path, packages: Path) -> None:
    """The folder that the browser loads: our module and models, an ONNX folder, the packages."""
    from sse.model.convert.onnx import export_onnx

    for rows, dim in dict.fromkeys(SYSTEMS.values()):
        write_web(model, root / "site", rows, dim)
        shutil.move(root / "site/model", root / rows)
        shutil.move(root / "site/sse.mjs", root / "sse.mjs")
        shutil.rmtree(root / "site")
    sse.export(sse.load(model, device="cpu"), root / "onnx-model")
    export_onnx(model, root / "onnx-model/onnx/model_int8.onnx", rows="int8")
    (root / "node_modules").symlink_to(packages)
    (root / "index.html").write_text(PAGE, "utf-8")


def write_queries(root: Path, queries: list[str], args: Any) -> None:
    """What the page encodes."""
    ids = [row.tolist() for row in Encoder(root / "int8").tokenizer.encode(queries)]
    content = {"texts": queries, "ids": ids, "rounds": args.rounds, "size": args.size}
    (root / "queries.json").write_text(json.dumps(content), "utf-8")


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder without a log."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def log_message(self, *args: Any) -> None:
        """Nothing."""


def in_chromium(root: Path) -> dict[str, Any]:
    """What the page measured."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UserError("the benchmark needs playwright: pip install playwright") from error
    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root)) as server,
        sync_playwright() as driver,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_function("window.out", timeout=600_000)
        out: dict[str, Any] = page.evaluate("window.out") | {"browser": browser.version}
        browser.close()
        server.shutdown()
    if "error" in out:
        raise UserError(f"the page failed: {out['error']}")
    return out


def differences(root: Path, queries: list[str], vectors: dict[str, Any]) -> dict[str, float]:
    """The largest difference of each system's vectors to `Encoder`'s."""
    out = {}
    for name, (rows, _) in SYSTEMS.items():
        found = np.array(vectors[name])
        expected = Encoder(root / rows).encode(queries[: len(found)])
        out[name] = float(np.abs(found - expected).max())
    return out


def table(measured: dict[str, Any]) -> str:
    """A row per system; x is how many times longer a query takes there than in `sse.mjs, int8`."""
    base, rows = measured["us"]["sse.mjs, int8"], []
    for name, (_, dim) in SYSTEMS.items():
        us = measured["us"][name]
        times = [f"{measured['opened'][name]:,.0f}", f"{min(us):,.0f}", f"{median(us):,.0f}"]
        x, off = f"{harness.ratio(us, base):.2f}", f"{measured['difference'][name]:.0e}"
        rows.append([name, str(dim), *times, x, off])
    head = ["system", "dims", "opened, ms", "least us", "median us", "x", "largest difference"]
    return harness.markdown(head, rows)


if __name__ == "__main__":
    sys.exit(main())

"""transformers.js runs an exported folder with an ONNX graph in its subfolder `onnx`."""

import json
import shutil
import subprocess

import numpy as np
import pytest

import sse
from sse.model.convert.onnx import export_onnx
from sse.serving.encoder import Encoder
from tests.compat.environments import PLACE
from tests.helpers.browser import chromium, served
from tests.helpers.samples import sentences

pytestmark = pytest.mark.compat
PACKAGE = "@huggingface/transformers@4.3.2"
DIST = "node_modules/@huggingface/transformers/dist"
TEXTS = ["漢字 naïve café", "red " * 300, *sentences(20)]
PAGE = """
<script type="module">
const texts = TEXTS, at = location.origin, out = {};
try {
  const { env, pipeline } = await import(`${at}/DIST/transformers.min.js`);
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = "/";
  env.backends.onnx.wasm.wasmPaths = `${at}/node_modules/onnxruntime-web/dist/`;
  for (const dtype of ["fp32", "int8", "q4"]) {
    const extract = await pipeline("feature-extraction", "model", { dtype, device: "wasm" });
    out[dtype] = (await extract(texts, { pooling: "mean", normalize: true })).tolist();
  }
} catch (error) {
  out.error = String(error);
}
window.out = out;
</script>
"""


@pytest.fixture
def packages():
    """The folder `node_modules` with transformers.js, installed once."""
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    folder = PLACE / "transformers.js"
    if not (folder / "made").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"npm gives no {PACKAGE}: {done.stderr.strip().splitlines()[-1]}")
        (folder / "made").touch()
    return folder / "node_modules"


def test_the_pipeline_gives_the_encoders_vectors(packages, make_model, tmp_path):
    folder = sse.export(make_model(), tmp_path / "model")
    kinds = {"": "float32", "_int8": "int8", "_q4": "int4"}
    for ending, rows in kinds.items():
        export_onnx(folder, folder / f"onnx/model{ending}.onnx", rows=rows)
    (tmp_path / "node_modules").symlink_to(packages)
    (tmp_path / "index.html").write_text(
        PAGE.replace("TEXTS", json.dumps(TEXTS)).replace("DIST", DIST)
    )
    with served(tmp_path) as address, chromium() as browser:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("window.out", timeout=120_000)
        out = page.evaluate("window.out")
    assert "error" not in out, out
    expected = Encoder(folder).encode(TEXTS)
    for dtype, tolerance in {"fp32": 1e-6, "int8": 0.02, "q4": 0.2}.items():
        np.testing.assert_allclose(out[dtype], expected, rtol=0, atol=tolerance, err_msg=dtype)

// Reads {module, folder, texts, options} as JSON, writes {ids, vectors} or {error}.
import { readFileSync } from "node:fs";

const { module, folder, texts, options } = JSON.parse(readFileSync(0, "utf-8"));
const { Encoder } = await import(module);
let out;
try {
  const model = await Encoder.load(folder);
  const vectors = model.encode(texts, options).map((vector) => Array.from(vector));
  out = { ids: texts.map((text) => model.ids(text)), vectors };
} catch (error) {
  out = { error: error.message, defect: error.constructor !== Error };
}
process.stdout.write(JSON.stringify(out));

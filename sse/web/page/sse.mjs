// Stable Static Embedding in plain JavaScript, for browsers of 2023 or newer and Node 20. No dependency.
//
//   import { Encoder } from "./sse.mjs";
//   const model = await Encoder.load("model"); // a folder: a path in Node, else an address
//   const [a, b] = model.encode(["a flat tyre", "a slow laptop"], { dim: 256 }); // Float32Arrays of length 1
//
// The token ids are those of Hugging Face's tokenizers, and the vectors those of Python's `sse.Encoder`.
// Each failure is an Error of one line: the file, what is wrong, the way out.

// Hugging Face's tables of letters are older than a browser's. To them these letters, assigned since, are
// neither marks nor punctuation, and do not decompose.
const NEW = String.raw`\u061d\u07fd\u0890-\u08e2\u09fd-\u09fe\u0a76\u0afa-\u0aff\u0b55\u0c04-\u0c3c\u0c77\u0c84
  \u0d00\u0d3b-\u0d3c\u0d81\u0eba\u0ece\u180f-\u1886\u1abf-\u1aeb\u1b4e-\u1b4f\u1b7d-\u1b7f\u1df6-\u1dfb\u2e43-\u2e5d
  \ua82c\ua8c5\ua8ff\ua9bd\u{105c9}-\u{105e4}\u{10d24}-\u{10f89}\u{11070}-\u{11074}\u{110c2}-\u{110cd}\u{111cf}
  \u{1123e}-\u{11241}\u{1133b}\u{11383}-\u{1145e}\u{11660}-\u{1166c}\u{116b9}\u{1182f}-\u{11fff}\u{12ff1}-\u{1612f}
  \u{16d68}-\u{16f4f}\u{16fe2}-\u{16fe4}\u{1cf00}-\u{1cf46}\u{1e000}-\u{1e6f5}\u{1e944}-\u{1e95f}`.replace(/\s/g, "");
const MARK = String.raw`[[\p{P}--[${NEW}]]\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e\u166d\u{111c9}]`; // punctuation
const WORDS = new RegExp(String.raw`${MARK}|[[^\p{White_Space}]--${MARK}]+`, "gv");
const CONTROL = new RegExp(String.raw`[[\p{Cc}\p{Cf}\p{Co}\ufffd]--[\t\n\r${NEW}]]`, "gv");
const OLD = new RegExp(`[^${NEW}]+`, "gv");
const ACCENT = new RegExp(String.raw`[[\p{Mn}\u1734\u{1171e}]--[\u{111c9}]]`, "gv");
const IDEOGRAPH = new RegExp(String.raw`[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2a6df}` +
  String.raw`\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]`, "gv");
const ASCII = /^[\x20-\x7e]*$/;
const SEEN = 100_000; // words whose ids are remembered

/** BERT's WordPiece, from the content of a tokenizer.json. */
export class Tokenizer {
  constructor(spec, file = "tokenizer.json") {
    const parts = { model: "WordPiece", normalizer: "BertNormalizer", pre_tokenizer: "BertPreTokenizer" };
    for (const [part, type] of Object.entries(parts)) {
      const found = spec[part]?.type ?? "none";
      if (found !== type) throw new Error(`${file}: its ${part} is ${found}, and this module runs ${type} only`);
    }
    this.vocabulary = new Map(Object.entries(spec.model.vocab));
    this.longest = 0; // units of the longest token
    for (const token of this.vocabulary.keys()) this.longest = Math.max(this.longest, token.length);
    this.unknown = this.vocabulary.get(spec.model.unk_token);
    if (this.unknown === undefined) throw new Error(`${file}: its vocabulary lacks ${spec.model.unk_token}`);
    this.prefix = spec.model.continuing_subword_prefix;
    this.most = spec.model.max_input_chars_per_word;
    this.rules = spec.normalizer;
    this.strips = this.rules.strip_accents ?? this.rules.lowercase;
    this.added = new Map();
    for (const token of spec.added_tokens ?? []) {
      for (const rule of ["normalized", "single_word", "lstrip", "rstrip"])
        if (token[rule]) throw new Error(`${file}: its token ${token.content} is ${rule}: this module runs no such`);
      this.added.set(token.content, token.id);
    }
    const longestFirst = [...this.added.keys()].sort((a, b) => b.length - a.length);
    const escaped = longestFirst.map((token) => token.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
    this.split = this.added.size ? new RegExp(`(${escaped.join("|")})`, "u") : null;
    this.size = 1 + [...this.vocabulary.values(), ...this.added.values()].reduce((a, b) => Math.max(a, b), -1);
    this.seen = new Map();
  }

  /** The token ids of a text, without special tokens. */
  ids(text) {
    const out = [];
    for (const part of this.split ? text.toWellFormed().split(this.split) : [text.toWellFormed()]) {
      const added = this.added.get(part);
      if (added !== undefined) out.push(added);
      else for (const word of this.normal(part).match(WORDS) ?? []) for (const id of this.word(word)) out.push(id);
    }
    return out;
  }

  /** The text as BERT's normaliser writes it. */
  normal(text) {
    if (!ASCII.test(text)) {
      if (this.rules.clean_text) text = text.replace(CONTROL, "").replace(/\p{White_Space}/gu, " ");
      if (this.rules.handle_chinese_chars) text = text.replace(IDEOGRAPH, " $& ");
      if (this.strips) text = text.replace(OLD, (run) => run.normalize("NFD").replace(ACCENT, ""));
    }
    return this.rules.lowercase ? text.replaceAll("Σ", "σ").toLowerCase() : text; // no final sigma there
  }

  /** The ids of a word: the longest token that it begins with, then the longest of the rest. */
  word(word) {
    let ids = this.seen.get(word);
    if (ids) return ids;
    if (this.seen.size >= SEEN) this.seen.clear();
    this.seen.set(word, (ids = this.pieces(word)));
    return ids;
  }

  pieces(word) {
    if (word.length > this.most && [...word].length > this.most) return [this.unknown];
    const ids = [];
    for (let start = 0; start < word.length; ) {
      let end = Math.min(word.length, start + this.longest), id;
      for (; end > start; end--) {
        const piece = word.slice(start, end);
        id = this.vocabulary.get(start ? this.prefix + piece : piece);
        if (id !== undefined) break;
      }
      if (id === undefined) return [this.unknown];
      ids.push(id);
      start = end;
    }
    return ids;
  }
}

// A norm is a list of steps on the mean x. A step is [names of its vectors, function of x and those vectors].
const scaled = (name) => [[name], (x, scale) => {
  for (let j = 0; j < x.length; j++) x[j] *= scale[j];
}];
const shifted = (...names) => [names, (x, scale, shift) => {
  for (let j = 0; j < x.length; j++) x[j] = x[j] * scale[j] + shift[j];
}];
const tanh = [[], (x) => {
  for (let j = 0; j < x.length; j++) x[j] = Math.tanh(x[j]);
}];
const clip = [[], (x) => {
  for (let j = 0; j < x.length; j++) x[j] = Math.min(1, Math.max(-1, x[j]));
}];
const unit = [[], (x) => {
  let sum = 0;
  for (let j = 0; j < x.length; j++) sum += x[j] * x[j];
  const scale = 1 / Math.max(Math.sqrt(sum), 1e-12);
  for (let j = 0; j < x.length; j++) x[j] *= scale;
}];
const standard = [["weight", "bias"], (x, weight, bias) => {
  let sum = 0, squares = 0;
  for (let j = 0; j < x.length; j++) sum += x[j];
  const mean = sum / x.length;
  for (let j = 0; j < x.length; j++) squares += (x[j] - mean) ** 2;
  const deviation = Math.sqrt(squares / x.length + 1e-5);
  for (let j = 0; j < x.length; j++) x[j] = ((x[j] - mean) / deviation) * weight[j] + bias[j];
}];
const dyt = [shifted("alpha", "bias"), tanh, scaled("beta")];
const NORMS = {
  none: [], gain: [scaled("gain")], rmsnorm: [unit, scaled("gain")], layernorm: [standard],
  dyt, dyt_scalar: dyt, dyt_frozen: dyt,
  dyt_outside: [scaled("alpha"), tanh, shifted("beta", "bias")],
  hardtanh: [shifted("alpha", "bias"), clip, scaled("beta")],
};
const WHOLE = new Set(["rmsnorm", "layernorm"]); // each dimension needs all others

/** A model of `sse export --to web`: y = norm(mean of the table rows of a text's tokens). */
export class Encoder {
  /** Read the model folder `place`; `read(name)` returns the bytes of one of its files. */
  static async load(place, read = reader(place)) {
    const config = json(await read("sse_config.json"), "sse_config.json");
    if (config?.format !== 1 || !config.rows || !config.digests)
      throw new Error("sse_config.json: not of this module's format: write the folder with sse export --to web");
    const file = async (name) => checked(await read(name), name, config.digests[name]);
    const prompts = "config_sentence_transformers.json";
    const tables = config.rows === "int4" ? ["model_rest.safetensors", "embedding.q4_k_m.bin"] : ["model.safetensors"];
    const [tokenizer, rest, table] = await Promise.all(["tokenizer.json", ...tables].map(file));
    const settings = Object.hasOwn(config.digests, prompts) ? json(await file(prompts), prompts) : {};
    const tensors = safetensors(rest, tables[0]);
    return new Encoder(config, new Tokenizer(json(tokenizer, "tokenizer.json")), tensors, table, settings);
  }

  constructor(config, tokenizer, tensors, table, settings) {
    const { norm, rows, dim, vocab_size: count } = config;
    if (!Object.hasOwn(NORMS, norm)) throw new Error(`sse_config.json: this module does not know the norm ${norm}`);
    this.tokenizer = tokenizer;
    this.dim = dim;
    this.config = config;
    this.sum = new Float64Array(dim);
    this.prompts = settings.prompts ?? {};
    this.prompt = settings.default_prompt_name ?? null;
    const vector = (name) => tensors.of(`${norm}.${name}`, dim);
    this.steps = NORMS[norm].map(([names, step]) => [step, names.map(vector)]);
    if (rows === "int4") {
      const bytes = (count * dim) / 2;
      if (table.byteLength !== bytes + 4 * count)
        throw new Error(`embedding.q4_k_m.bin: ${table.byteLength} bytes do not hold ${count} rows of ${dim} columns`);
      this.rows = new Uint8Array(table, 0, bytes);
      this.scales = new Float32Array(table.slice(bytes));
    } else if (rows === "int8" || rows === "float32") {
      this.rows = tensors.of("embedding.weight", count * dim);
      this.scales = rows === "int8" ? tensors.of("embedding.scale", count) : null;
    } else throw new Error(`sse_config.json: this module reads float32, int8 and int4 rows, not ${rows}`);
    if (tokenizer.size > count)
      throw new Error(`tokenizer.json has ${tokenizer.size} ids, the table ${count} rows: they are of different models`);
  }

  /**
   * The vectors of texts, each a Float32Array, or the one of a single text.
   * dim: the first dimensions only. normalize: length 1. prompt: the name of the model's prompt to put before.
   */
  encode(texts, { dim = this.dim, normalize = true, prompt = this.prompt } = {}) {
    if (!Number.isInteger(dim) || dim < 1 || dim > this.dim) throw new Error(`dim ${dim}: give 1 to ${this.dim}`);
    if (prompt && !Object.hasOwn(this.prompts, prompt))
      throw new Error(`prompt ${prompt}: the model has ${Object.keys(this.prompts).join(", ") || "none"}`);
    const before = prompt ? this.prompts[prompt] : "";
    const one = (text) => {
      if (typeof text !== "string") throw new Error(`a text is ${typeof text}, not a string`);
      let y = this.mean(this.ids(before + text), WHOLE.has(this.config.norm) ? this.dim : dim);
      for (const [step, vectors] of this.steps) step(y, ...vectors);
      y = y.subarray(0, dim);
      if (normalize) unit[1](y);
      return new Float32Array(y);
    };
    return Array.isArray(texts) ? texts.map(one) : one(texts);
  }

  /** The ids of a text, cut to the model's most tokens. */
  ids(text) {
    const ids = this.tokenizer.ids(text);
    return this.config.max_tokens ? ids.slice(0, this.config.max_tokens) : ids;
  }

  /** The mean of the rows `ids`, their first d columns, in a Float64Array that the next call takes again. */
  mean(ids, d) {
    const { rows, scales, dim, sum } = this, packed = this.config.rows === "int4";
    sum.fill(0);
    let shift = 0; // of int4: w = (q / 7.5 - 1) * scale
    for (const id of ids) {
      if (packed) {
        const scale = scales[id] / 7.5;
        for (let j = 0, at = (id * dim) / 2; j < d; j += 2, at++) {
          sum[j] += scale * (rows[at] >> 4);
          sum[j + 1] += scale * (rows[at] & 15);
        }
        shift += scales[id];
      } else {
        const scale = scales ? scales[id] : 1;
        for (let j = 0, at = id * dim; j < d; j++, at++) sum[j] += scale * rows[at];
      }
    }
    const count = Math.max(ids.length, 1), mean = sum.subarray(0, d);
    for (let j = 0; j < d; j++) mean[j] = (mean[j] - shift) / count;
    return mean;
  }
}

/** The function that reads a file of the folder: from the disk in Node, by fetch elsewhere. */
function reader(place) {
  const folder = String(place).replace(/\/?$/, "/");
  const onDisk = globalThis.process?.versions?.node && !/^https?:/.test(folder);
  return async (name) => {
    try {
      if (onDisk) {
        const { readFile } = await import("node:fs/promises");
        return new Uint8Array(await readFile(folder.startsWith("file:") ? new URL(folder + name) : folder + name)).buffer;
      }
      const response = await fetch(folder + name);
      if (response.ok) return await response.arrayBuffer();
      throw new Error(`the server answers ${response.status}`);
    } catch (error) {
      throw new Error(`${folder}${name} cannot be read: ${error.message}`);
    }
  };
}

function json(bytes, name) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new Error(`${name} is no JSON, or only a part of it: load it again`);
  }
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

/** The bytes, once they equal their digest SIZE-CRC-CRC...: one CRC-32 for each 4 MiB, in hexadecimal. */
function checked(buffer, name, digest) {
  const [size, ...crcs] = String(digest).split("-").map((part) => parseInt(part, 16));
  const bytes = new Uint8Array(buffer);
  if (bytes.length !== size)
    throw new Error(`${name} has ${bytes.length} of ${size} bytes: load it again, or copy the folder again`);
  crcs.forEach((expected, block) => {
    let crc = ~0;
    const end = Math.min(bytes.length, (block + 1) << 22);
    for (let i = block << 22; i < end; i++) crc = CRC[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
    if (~crc >>> 0 !== expected) throw new Error(`${name} is damaged: load it again, or copy the folder again`);
  });
  return buffer;
}

/** The tensors of a safetensors file; `of(name, n)` is one of n numbers. */
function safetensors(buffer, file) {
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  const header = json(buffer.slice(8, start), file);
  const of = (name, count) => {
    const tensor = header[name], Kind = { F32: Float32Array, I8: Int8Array }[tensor?.dtype];
    if (!Kind) throw new Error(`${file} holds no ${name}: a part of the model is missing`);
    const numbers = new Kind(buffer.slice(...tensor.data_offsets.map((at) => start + at)));
    if (numbers.length !== count) throw new Error(`${file}: ${name} has ${numbers.length} numbers, expected ${count}`);
    return numbers;
  };
  return { of };
}

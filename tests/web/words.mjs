// Reads {module, spec, block} as JSON; writes a SHA-256 of the words of each block of code points.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const { module, spec, block } = JSON.parse(readFileSync(0, "utf-8"));
const { Tokenizer } = await import(module);
const tokenizer = new Tokenizer(spec);
let words = [];
tokenizer.word = (word) => (words.push(word), []);
const out = [];
for (let first = 0; first < 0x110000; first += block) {
  words = [];
  for (let code = first; code < first + block; code++) {
    if (code >= 0xd800 && code < 0xe000) continue;
    const letter = String.fromCodePoint(code);
    tokenizer.ids(`a${letter}b ${letter}\u0301${letter}\u0323${letter}Z`);
  }
  out.push(createHash("sha256").update(words.join("\n")).digest("hex"));
}
process.stdout.write(JSON.stringify(out));

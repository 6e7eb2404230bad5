// Turn texts into vectors, and rank images by their cosine with a vector: all of it in this browser.
import * as ort from "./ort.wasm.min.js";
import { Tokenizer } from "./tokenizers.min.js";

const PARTS = new URL("./", import.meta.url);

// What the model's own cleaning of texts (ftfy's) removes.
const UNSEEN = /[\0-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]/g;

/** Return the bytes of a file beside this script, unpacked if they are packed; hosts may unpack them on the way. */
export async function read(name) {
  const response = await fetch(new URL(name, PARTS));
  if (!response.ok) throw new Error(`${name}: HTTP ${response.status}`);
  const bytes = await response.arrayBuffer();
  const [first, second] = new Uint8Array(bytes, 0, 2);
  if (first !== 0x1f || second !== 0x8b) return bytes;
  return new Response(new Response(bytes).body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

export async function readJson(name) {
  return JSON.parse(new TextDecoder().decode(await read(name)));
}

/** Return a function that gives the token ids of a text, at most `length`: those of the library `tokenizers`. */
export function tokenizerOf(stated, settings, length) {
  const tokenizer = new Tokenizer(stated, settings);
  const rules = JSON.stringify(stated.normalizer);
  const lowers = /"Lowercase"|"lowercase":true/.test(rules);
  const final = stated.normalizer?.normalizers?.find((rule) => rule.pattern?.Regex?.includes("Σ"));
  return (text) => {
    let clean = (text.toWellFormed?.() ?? text).replace(UNSEEN, "");
    // JavaScript writes a small sigma by its neighbours, `tokenizers` by its rule alone.
    if (lowers && final) clean = clean.normalize("NFC").replace(new RegExp(final.pattern.Regex, "gu"), final.content);
    const { ids } = tokenizer.encode(lowers ? clean.replaceAll("Σ", "σ") : clean);
    return ids.length > length ? [...ids.slice(0, length - 1), ids.at(-1)] : ids;
  };
}

/** Load the model; return a function that gives the unit vector of a text. */
export async function loadEncoder({ context_length }) {
  const [wasm, model, stated, settings] = await Promise.all(
    [read("ort.wasm.bin"), read("text.onnx.bin"), readJson("tokenizer.json.bin"), readJson("tokenizer_config.json")],
  );
  ort.env.wasm.numThreads = 1; // more need headers that a plain host does not send
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.wasmPaths = { mjs: new URL("ort-wasm-simd-threaded.js", PARTS).href };
  const session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  const tokenize = tokenizerOf(stated, settings, context_length);
  let last = Promise.resolve(); // a session runs one text at a time
  const encode = async (text) => {
    const ids = BigInt64Array.from(tokenize(text), BigInt);
    const found = await session.run({ input_ids: new ort.Tensor("int64", ids, [1, ids.length]) });
    return found.text_features.data;
  };
  return (text) => (last = last.catch(() => {}).then(() => encode(text)));
}

/** The vectors of the images: a scale for each image in 32 bits, then whole numbers in 16. */
export class Vectors {
  constructor(bytes, number) {
    this.scales = new Float32Array(bytes, 0, number);
    this.values = new Int16Array(bytes, 4 * number);
    this.width = this.values.length / number;
  }

  of(image) {
    const start = image * this.width;
    return Float32Array.from(this.values.subarray(start, start + this.width), (value) => value * this.scales[image]);
  }

  /** Return the images of a list and their cosines with a unit vector, best first. */
  rank(vector, images) {
    const cosines = Float64Array.from(images, (image) => {
      let sum = 0;
      for (let place = 0, at = image * this.width; place < this.width; place++, at++) sum += vector[place] * this.values[at];
      return sum * this.scales[image];
    });
    const order = Uint32Array.from(images.keys()).sort((one, other) => cosines[other] - cosines[one] || one - other);
    return Array.from(order, (place) => ({ image: images[place], cosine: cosines[place] }));
  }
}

// A GPT-NeoX in plain JavaScript: byte-level BPE, a forward pass with a cache of keys and values, pushes, greedy text.
// It knows no page, so that a test can run it alone. Weights are float32 (from float16), sums are double.
"use strict";

// --- texts to tokens, and back -----------------------------------------------------------------------------------------

const SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"; // as Unicode has it; \s is not
const PIECES = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`, "gu");

class Tokenizer {
  constructor({tokens, merges, added, form}) {
    this.tokens = tokens; // by id
    this.form = form; // of Unicode, or ""
    this.ids = new Map(tokens.map((token, id) => [token, id]));
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    this.added = new Map(Object.entries(added)); // such as the end of text, spelled out
    const spelled = [...this.added.keys()].sort((a, b) => b.length - a.length);
    this.apart = new RegExp(`(${spelled.map((token) => token.replace(/[^\w ]/g, "\\$&")).join("|") || "(?!)"})`);
    // Bytes as visible characters: those that are none stand behind all others.
    const seen = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    let other = 256;
    this.letters = Array.from({length: 256}, (_, byte) => String.fromCharCode(seen(byte) ? byte : other++));
    this.bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
  }

  // Words as the tokenizer parts them, each with its ids.
  words(text) {
    return text.split(this.apart).flatMap((part) =>
      this.added.has(part) ? [{text: part, ids: [this.added.get(part)]}]
        : (this.form ? part.normalize(this.form) : part).match(PIECES)?.map((word) => ({text: word, ids: this.merge(word)})) ?? []);
  }

  merge(word) {
    let parts = Array.from(new TextEncoder().encode(word), (byte) => this.letters[byte]);
    for (;;) {
      let best = Infinity, at = -1;
      for (let k = 0; k + 1 < parts.length; k++) {
        const rank = this.ranks.get(`${parts[k]} ${parts[k + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, k];
      }
      if (at < 0) return parts.map((part) => this.ids.get(part));
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  encode(text) {
    return this.words(text).flatMap((word) => word.ids);
  }

  // What ids spell, without those that are no text.
  decode(ids) {
    const spelled = ids.map((id) => this.tokens[id]).filter((token) => !this.added.has(token)).join("");
    const bytes = Uint8Array.from(spelled, (letter) => this.bytes.get(letter));
    return new TextDecoder("utf-8", {ignoreBOM: true}).decode(bytes); // which would drop a mark of byte order
  }
}

// --- numbers -----------------------------------------------------------------------------------------------------------

const HALVES = Float32Array.from({length: 1 << 16}, (_, bits) => {
  const exponent = (bits >> 10) & 31, rest = bits & 1023;
  const size = exponent === 0 ? rest * 2 ** -24 : exponent === 31 ? (rest ? NaN : Infinity) : (1 + rest / 1024) * 2 ** (exponent - 15);
  return bits >> 15 ? -size : size;
});

// Plain loops: there are millions.
function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const letters = atob(base64), bytes = new Uint8Array(letters.length);
  for (let k = 0; k < bytes.length; k++) bytes[k] = letters.charCodeAt(k);
  return bytes;
}

function halves(base64) {
  const bits = new Uint16Array(bytesOf(base64).buffer), values = new Float32Array(bits.length);
  for (let k = 0; k < bits.length; k++) values[k] = HALVES[bits[k]];
  return values;
}

const floats = (base64) => new Float32Array(bytesOf(base64).buffer);

// The error function's part of GELU (Press et al., Numerical Recipes: 1.2e-7 everywhere).
function gelu(x) {
  const z = Math.abs(x) * Math.SQRT1_2, t = 1 / (1 + z / 2);
  const tail = t * Math.exp(-z * z - 1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
    + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)))))))));
  return x * (x < 0 ? tail : 2 - tail) / 2;
}

// out = weight · x + bias; four rows at a time, so that each x is fetched once for them.
function linear(weight, bias, x, out) {
  const n = x.length, rows = out.length;
  let i = 0;
  for (; i + 3 < rows; i += 4) {
    const [p, q, r, s] = [i * n, (i + 1) * n, (i + 2) * n, (i + 3) * n];
    let a = 0, b = 0, c = 0, d = 0;
    for (let j = 0; j < n; j++) {
      const value = x[j];
      a += weight[p + j] * value;
      b += weight[q + j] * value;
      c += weight[r + j] * value;
      d += weight[s + j] * value;
    }
    [out[i], out[i + 1], out[i + 2], out[i + 3]] = [a, b, c, d];
  }
  for (; i < rows; i++) for (let j = 0; j < n; j++) out[i] += weight[i * n + j] * x[j];
  if (bias) for (i = 0; i < rows; i++) out[i] += bias[i];
  return out;
}

function normed({weight, bias}, x, epsilon) {
  let mean = 0, square = 0;
  for (const value of x) mean += value / x.length;
  for (const value of x) square += (value - mean) ** 2 / x.length;
  const factor = 1 / Math.sqrt(square + epsilon);
  return x.map((value, i) => (value - mean) * factor * weight[i] + bias[i]);
}

// Natural logarithms of probabilities, in double.
function logProbabilities(logits) {
  let most = -Infinity, sum = 0;
  for (const value of logits) most = Math.max(most, value);
  for (const value of logits) sum += Math.exp(value - most);
  return Float64Array.from(logits, (value) => value - most - Math.log(sum));
}

// --- the model ---------------------------------------------------------------------------------------------------------

class Model {
  // config: hidden, layers, heads, inner, rotary, theta, epsilon, parallel, context, end; shapes: [name, size] in order.
  constructor(config, shapes, weights) {
    this.config = config;
    let at = 0;
    const named = Object.fromEntries(shapes.map(([name, size]) => [name, weights.subarray(at, (at += size))]));
    const part = (name) => ({weight: named[`${name}.weight`], bias: named[`${name}.bias`]});
    this.embedding = named["gpt_neox.embed_in.weight"];
    this.unembedding = named["lm_head.weight"] ?? this.embedding;
    this.norm = part("gpt_neox.final_layer_norm");
    this.blocks = Array.from({length: config.layers}, (_, l) => {
      const of = (name) => part(`gpt_neox.layers.${l}.${name}`);
      return {before: of("input_layernorm"), after: of("post_attention_layernorm"), qkv: of("attention.query_key_value"),
        dense: of("attention.dense"), up: of("mlp.dense_h_to_4h"), down: of("mlp.dense_4h_to_h")};
    });
    const half = config.rotary / 2, size = config.hidden / config.heads;
    this.angles = Float32Array.from({length: half}, (_, j) => 1 / config.theta ** (2 * j / config.rotary));
    this.size = size;
  }

  // A prompt but for its last token, ready to go on from again and again: each time with another push, or none.
  // What it has in common with an earlier one is taken over: of a prompt that is being typed nearly all.
  begin(ids, earlier = null) {
    const {layers, hidden, context} = this.config, room = () => new Float32Array(context * hidden);
    const cache = {keys: Array.from({length: layers}, room), values: Array.from({length: layers}, room), length: 0};
    while (cache.length < Math.min(ids.length, earlier?.prompt.length ?? 0) - 1 && ids[cache.length] === earlier.prompt[cache.length]) cache.length++;
    for (const kind of cache.length ? ["keys", "values"] : []) {
      cache[kind].forEach((own, layer) => own.set(earlier.cache[kind][layer].subarray(0, cache.length * hidden)));
    }
    for (const id of ids.slice(cache.length, -1)) this.run(cache, id, null);
    return {cache, prompt: ids};
  }

  // The residual stream after all blocks, at one more token. A push moves it after its own block.
  run(cache, id, push) {
    const {hidden, inner, parallel, epsilon} = this.config;
    let x = this.embedding.slice(id * hidden, (id + 1) * hidden);
    this.blocks.forEach((block, layer) => {
      const attended = this.attend(cache, layer, normed(block.before, x, epsilon));
      const middle = parallel ? x : x.map((value, i) => value + attended[i]);
      const wide = linear(block.up.weight, block.up.bias, normed(block.after, middle, epsilon), new Float32Array(inner)).map(gelu);
      const thought = linear(block.down.weight, block.down.bias, wide, new Float32Array(hidden));
      x = x.map((value, i) => value + attended[i] + thought[i]);
      if (push && push.layer === layer) x = pushed(x, push);
    });
    cache.length++;
    return x;
  }

  attend(cache, layer, x) {
    const {hidden, heads, rotary} = this.config, {size, angles} = this, half = rotary / 2, at = cache.length;
    const {qkv, dense} = this.blocks[layer], keys = cache.keys[layer], values = cache.values[layer];
    const all = linear(qkv.weight, qkv.bias, x, new Float32Array(3 * hidden)), out = new Float32Array(hidden);
    for (let h = 0; h < heads; h++) {
      const [q, k, v] = [0, 1, 2].map((part) => all.subarray((3 * h + part) * size, (3 * h + part + 1) * size));
      for (let j = 0; j < half; j++) {
        const cos = Math.cos(at * angles[j]), sin = Math.sin(at * angles[j]);
        for (const side of [q, k]) [side[j], side[j + half]] = [side[j] * cos - side[j + half] * sin, side[j + half] * cos + side[j] * sin];
      }
      keys.set(k, at * hidden + h * size);
      values.set(v, at * hidden + h * size);
      const scores = new Float64Array(at + 1);
      for (let t = 0; t <= at; t++) {
        for (let j = 0, place = t * hidden + h * size; j < size; j++) scores[t] += q[j] * keys[place + j];
        scores[t] /= Math.sqrt(size);
      }
      const most = Math.max(...scores), weights = scores.map((score) => Math.exp(score - most));
      const sum = weights.reduce((a, b) => a + b);
      for (let t = 0; t <= at; t++) {
        for (let j = 0, place = t * hidden + h * size; j < size; j++) out[h * size + j] += weights[t] / sum * values[place + j];
      }
    }
    return linear(dense.weight, dense.bias, out, new Float32Array(hidden));
  }

  logits(x) {
    return linear(this.unembedding, null, normed(this.norm, x, this.config.epsilon), new Float32Array(this.unembedding.length / this.config.hidden));
  }

  // Logits after the prompt's last token, which is the first that is pushed.
  first({cache, prompt}, push) {
    cache.length = prompt.length - 1;
    return this.logits(this.run(cache, prompt[prompt.length - 1], push));
  }

  // The likeliest token after token, to the end of text.
  write(begun, push, count) {
    const ids = [], room = this.config.context - begun.prompt.length + 1;
    let logits = this.first(begun, push);
    while (ids.length < Math.min(count, room)) {
      let best = 0;
      for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
      ids.push(best);
      if (best === this.config.end || ids.length >= Math.min(count, room)) break;
      logits = this.logits(this.run(begun.cache, best, push));
    }
    return ids;
  }

  // How probable each continuation is (ids of one token or several).
  probabilities(begun, push, continuations) {
    const first = logProbabilities(this.first(begun, push));
    return continuations.map((ids) => {
      let sum = first[ids[0]];
      begun.cache.length = begun.prompt.length;
      for (let k = 1; k < ids.length; k++) sum += logProbabilities(this.logits(this.run(begun.cache, ids[k - 1], push)))[ids[k]];
      return Math.exp(sum);
    });
  }
}

// push: layer, operator, vector (of unit length), alpha (of add: a length; of ablate: a share).
function pushed(x, {operator, vector, alpha}) {
  const along = operator === "ablate" ? -alpha * x.reduce((sum, value, i) => sum + value * vector[i], 0) : alpha;
  return x.map((value, i) => value + along * vector[i]);
}

// A random direction of unit length, the same for the same number (normal draws, by Mulberry32).
function randomDirection(size, seed) {
  let state = seed * 0x9e3779b9;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  const drawn = Float32Array.from({length: size}, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
  const length = Math.hypot(...drawn);
  return drawn.map((value) => value / length);
}

if (typeof module === "object") module.exports = {Tokenizer, Model, halves, floats, logProbabilities, randomDirection};

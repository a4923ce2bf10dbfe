// The page itself: what is chosen stands in the link, what follows from it is computed and shown.
"use strict";

const byId = (id) => document.getElementById(id);
const study = JSON.parse(byId("study").textContent);
const tokenizer = new Tokenizer(study.tokenizer);
const directions = floats(study.directions);
const {layers, hidden, context} = study.config;
const TOKENS = Math.min(18, Math.floor(context / 3)); // that are written; on neutral text two thirds of it
const models = new Map(), begun = new Map();
let state, result, remarks = [];

// --- what is asked for, and the link that says it ------------------------------------------------------------------------

const conceptOf = ({concept}) => study.concepts.find(({name}) => name === concept);
const stepAt = ({step}) => study.steps.indexOf(step);
const chosenLayer = (asked) => study.chosen[stepAt(asked)][study.concepts.indexOf(conceptOf(asked))];
const layerOf = (asked) => asked.layer === "auto" ? chosenLayer(asked) : Number(asked.layer);
const clean = (prompt) => prompt.replace(/\s+$/, ""); // words begin with their space

// Before it emerges, where it does (if it does), and too much at the end.
function tries(concept) {
  const {onset, onset_lower: from} = concept.curve.onsets.half_way, {onset: seen} = concept.curve.onsets.first_detectable;
  const middle = study.steps[Math.floor(study.steps.length / 2)], most = study.alpha.most;
  if (study.steps.length === 1) return [["gently", study.steps[0], most / 8], ["half-way", study.steps[0], most / 4], ["strongly", study.steps[0], most]];
  const there = study.steps.find((step) => step >= (onset ?? seen ?? middle)) ?? middle;
  const before = study.steps.findLast((step) => step < Math.min(seen ?? there, from ?? there) / 2) ?? study.steps[0];
  const names = onset === null && seen === null ? ["early", "half-way", "at the end"] : ["before", "as it emerges", "too strong"];
  return [[names[0], before, most], [names[1], there, most / 4], [names[2], study.steps.at(-1), most]];
}

function read(hash) {
  const asked = new URLSearchParams(hash.replace(/^#/, "")), number = (name) => asked.has(name) ? Number(asked.get(name)) : NaN;
  remarks = [];
  const name = asked.get("concept") ?? study.begin, known = study.concepts.some((concept) => concept.name === name);
  if (!known) remarks.push(`There is no concept “${name}” here; this is ${study.begin}.`);
  const concept = conceptOf({concept: known ? name : study.begin}), [, [, there, half]] = tries(concept);
  const near = (step) => study.steps.reduce((best, one) => Math.abs(one - step) < Math.abs(best - step) ? one : best);
  const step = near(Number.isFinite(number("step")) ? number("step") : there), {most} = study.alpha;
  if (asked.has("step") && step !== number("step")) remarks.push(`There is no checkpoint at step ${asked.get("step")}; the nearest is ${step}.`);
  const alpha = Number.isFinite(number("alpha")) ? Math.max(-most, Math.min(most, number("alpha"))) : half;
  if (asked.has("alpha") && alpha !== number("alpha")) remarks.push(`α is a number from ${-most} to ${most} here; it is ${alpha} now.`);
  const layer = /^\d+$/.test(asked.get("layer") ?? "") && number("layer") < layers ? String(number("layer")) : "auto";
  if (asked.has("layer") && asked.get("layer") !== layer) remarks.push(`There is no layer ${asked.get("layer")}; it is the one that was chosen.`);
  const operator = asked.get("operator") === "ablate" ? "ablate" : "add";
  if (![null, "add", "ablate"].includes(asked.get("operator"))) remarks.push(`There is no operator “${asked.get("operator")}” here; it is add.`);
  const neutral = Math.min(study.neutral.length - 1, Math.max(0, number("neutral") || 0));
  return {step, concept: concept.name, layer, operator, alpha, prompt: asked.get("prompt") ?? concept.prompts[0], random: Math.max(0, number("random") || 0), neutral};
}

function link({step, concept, layer, operator, alpha, prompt, random, neutral}) {
  const told = {step, concept, alpha};
  if (layer !== "auto") told.layer = layer;
  if (operator !== "add") told.operator = operator;
  if (random) told.random = random;
  if (neutral) told.neutral = neutral;
  if (prompt !== conceptOf({concept}).prompts[0]) told.prompt = prompt;
  return `#${new URLSearchParams(told)}`;
}

// --- what follows from it --------------------------------------------------------------------------------------------------

function modelAt(step) {
  if (!models.has(step)) {
    const kept = byId(`step-${step}`);
    models.set(step, new Model(study.config, study.shapes, halves(kept.textContent)));
    kept.remove(); // as it is not needed any more
  }
  return models.get(step);
}

// A text, ready to go on from, at a step; the last few are kept.
function beginning(step, prompt) {
  const key = `${step} ${prompt}`;
  if (!begun.has(key)) {
    if (begun.size > 8) begun.delete(begun.keys().next().value);
    const model = modelAt(step), earlier = [...begun.values()].filter((one) => one.model === model && !one.neutral).at(-1);
    begun.set(key, {...model.begin(tokenizer.encode(prompt), earlier), model, neutral: study.neutral.includes(prompt)});
  }
  return begun.get(key);
}

// The concept's direction, or a random one of the same length, as strong as α says; none where there is no direction.
function pushOf(asked, random = 0) {
  const at = stepAt(asked), c = study.concepts.indexOf(conceptOf(asked)), layer = layerOf(asked), strength = study.strength[at][c][layer];
  if (strength === null || !asked.alpha) return null;
  const place = ((at * study.concepts.length + c) * layers + layer) * hidden;
  const vector = random ? randomDirection(hidden, random) : directions.subarray(place, place + hidden);
  return {layer, operator: asked.operator, vector, alpha: asked.alpha * (asked.operator === "add" ? strength : 1)};
}

// The ids that a word adds to a prompt.
function added(prompt, word) {
  const before = tokenizer.encode(prompt), both = tokenizer.encode(prompt + word);
  return before.every((id, k) => both[k] === id) ? both.slice(before.length) : tokenizer.encode(word);
}

function written(from, push, options, count = TOKENS) {
  const {model} = from, ids = model.write(from, push, count);
  return {text: tokenizer.decode(ids), ids, shares: options.length ? model.probabilities(from, push, options) : []};
}

function divergence(from, push) {
  const [still, moved] = [null, push].map((each) => logProbabilities(from.model.first(from, each)));
  return still.reduce((sum, value, id) => sum + Math.exp(value) * (value - moved[id]), 0);
}

function compute(asked) {
  const prompt = clean(asked.prompt), ids = tokenizer.encode(prompt), concept = conceptOf(asked), most = context - TOKENS;
  const strange = tokenizer.words(prompt).filter(({text, ids}) => ids.length > 1 && text.trim());
  const unknown = [...new Set(strange.map(({text, ids}) => `“${text.trim()}” (read as ${ids.map((id) => tokenizer.decode([id]).trim()).filter(Boolean).join("·")})`))];
  if (!ids.length || ids.length > most) {
    return {wrong: ids.length ? `The prompt has ${ids.length} tokens; this model takes ${most} and writes ${TOKENS} more. Shorten it.` : "Write a prompt: the model goes on from its last word.", unknown};
  }
  const from = beginning(asked.step, prompt), neutral = beginning(asked.step, study.neutral[asked.neutral]);
  const words = [...concept.targets, ...concept.foils].map((word) => added(prompt, word));
  const found = {unknown, push: pushOf(asked), directed: study.strength[stepAt(asked)][study.concepts.indexOf(concept)][layerOf(asked)] !== null};
  from.still ??= written(from, null, []);
  found.unsteered = {...from.still, shares: words.length ? from.model.probabilities(from, null, words) : []};
  found.pushed = written(from, found.push, words);
  if (asked.random) found.random = written(from, pushOf(asked, asked.random), words);
  neutral.still ??= written(neutral, null, [], TOKENS * 2 / 3);
  found.neutral = {unsteered: neutral.still, pushed: written(neutral, found.push, [], TOKENS * 2 / 3), kl: divergence(neutral, found.push)};
  return found;
}

// --- and how it is shown -----------------------------------------------------------------------------------------------------

function node(tag, attributes, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

const sure = (alpha) => `${alpha < 0 ? "−" : ""}${Number(Math.abs(alpha).toFixed(2))}`;
const options = (select, entries) => select.replaceChildren(...entries.map(([value, label]) => node("option", {value}, label)));
const shown = (text) => text.length > 64 ? `…${text.slice(-63)}` : text;

function heads(asked) {
  const layer = `layer ${layerOf(asked)}`, how = asked.operator === "add" ? `${sure(asked.alpha)} × ${study.alpha.unit}` : `${sure(asked.alpha)} of it taken out`;
  return {unsteered: "Unsteered", pushed: `Pushed along ${asked.concept}: ${how}, ${layer}`, random: `Pushed along random direction ${asked.random}, just as much`};
}

// What was written, its prompt before it; words of the concept are underlined.
function card(kind, head, prompt, text, targets) {
  const words = targets.map((word) => word.trim().replace(/[^\w ]/g, "\\$&")).filter(Boolean);
  const parts = words.length ? text.split(new RegExp(`(?<![\\p{L}])(${words.join("|")})(?![\\p{L}])`, "u")) : [text];
  const marked = parts.map((part, k) => k % 2 ? node("mark", {}, part) : part);
  const made = node("span", {className: "new"}, ...(text ? marked : ["(nothing: the end of the text)"]));
  return node("div", {className: `card ${kind}`}, node("h3", {}, head), node("p", {}, node("span", {className: "soft"}, prompt), made));
}

const sumOf = (shares, concept) => shares.slice(0, concept.targets.length).reduce((a, b) => a + b, 0);

function rowsOf(found, concept) {
  const kinds = ["unsteered", "pushed", "random"].filter((kind) => found[kind]);
  const rows = concept.targets.map((word, k) => ({label: word.trim(), values: Object.fromEntries(kinds.map((kind) => [kind, found[kind].shares[k]]))}));
  const rest = (kind) => found[kind].shares.slice(concept.targets.length).reduce((a, b) => a + b, 0);
  return [...rows, {label: `${concept.foils.length} others (foils)`, values: Object.fromEntries(kinds.map((kind) => [kind, rest(kind)]))}];
}

function verdict(found, concept, asked) {
  if (!found.directed) return `At step ${asked.step} no direction of ${concept.name} was found in this layer, so nothing is pushed.`;
  if (!concept.targets.length) return "";
  const [before, after] = [found.unsteered, found.pushed].map(({shares}) => sumOf(shares, concept));
  const same = found.pushed.text === found.unsteered.text ? "It writes the same as unsteered. " : "";
  const control = found.random ? `, ${percent(sumOf(found.random.shares, concept))} pushed along random direction ${asked.random}` : "";
  return `${same}The next word is one of ${concept.name} (underlined: ${concept.targets.map((word) => word.trim()).join(", ")}) with a probability of ${percent(before)} unsteered, ${percent(after)} pushed${control}.`;
}

function cost(kl) {
  const over = kl > study.budget;
  return `${over ? "✗" : "✓"} What comes next here is changed by ${kl.toFixed(kl < 0.1 ? 3 : 2)} nat (KL from unsteered): ${over ? "more than" : "within"} the ${study.budget} nat that this study allows.`;
}

const namesOf = (found) => ({unsteered: "unsteered", pushed: "pushed", ...(found.random && {random: "random direction"})});
const drawBars = (found, concept, width) => bars(rowsOf(found, concept), namesOf(found), concept.colour, width);
const drawCurve = (asked, width) => overTraining({steps: study.steps, axis: study.axis, concept: conceptOf(asked), at: stepAt(asked), unit: study.alpha.curve, width});

function show() {
  const concept = conceptOf(state), at = stepAt(state), seen = study.tokensSeen[at];
  document.documentElement.style.setProperty("--concept", concept.colour);
  result = compute(state);
  const said = [...remarks, ...(result.wrong ? [result.wrong] : [])];
  byId("said").hidden = !said.length;
  byId("said").textContent = said.join(" ");
  byId("prompt-told").textContent = result.unknown.length ? `Words this model does not know: ${result.unknown.join(", ")}.` : "";
  // the controls
  byId("step").value = at;
  byId("step").setAttribute("aria-valuetext", `step ${state.step}`);
  byId("step-told").textContent = `${state.step} of ${study.steps.at(-1)}`;
  byId("step-told").title = seen >= 0 ? `${seen.toLocaleString("en")} tokens read` : "";
  byId("concept").value = state.concept;
  options(byId("layer"), [["auto", `chosen at this step: ${chosenLayer(state)}`], ...Array.from({length: layers}, (_, l) => [String(l), `layer ${l}`])]);
  byId("layer").value = state.layer;
  for (const radio of document.getElementsByName("operator")) radio.checked = radio.value === state.operator;
  byId("alpha").value = state.alpha;
  byId("alpha-told").textContent = `${sure(state.alpha)}${state.operator === "add" ? ` × ${study.alpha.unit}` : ""}`;
  byId("alpha-hint").textContent = state.operator === "add" ? "α 0: no push; below 0: away from it" : "α 0: no push; 1: all of it is taken out; 2: mirrored";
  if (byId("prompt").value !== state.prompt) byId("prompt").value = state.prompt;
  options(byId("examples"), [["", "prompts of the study"], ...concept.prompts.map((prompt) => [prompt, shown(prompt)])]);
  byId("control").checked = state.random > 0;
  byId("another").disabled = !state.random;
  byId("neutral").value = state.neutral;
  byId("tries").replaceChildren(`Try with ${concept.name}: `, ...tries(concept).map(([name, step, alpha]) => {
    return node("button", {type: "button", onclick: () => change({step, alpha, operator: "add", layer: "auto"})}, `${name} (step ${step}, α ${alpha})`);
  }));
  // what was found
  if (!result.wrong) {
    const prompt = clean(state.prompt), kinds = ["unsteered", "pushed", "random"].filter((kind) => result[kind]);
    byId("texts").replaceChildren(...kinds.map((kind) => card(kind, heads(state)[kind], prompt, result[kind].text, concept.targets)));
    byId("verdict").textContent = verdict(result, concept, state);
    byId("effects").replaceChildren(...["unsteered", "pushed"].map((kind) => card(kind, heads(state)[kind], study.neutral[state.neutral], result.neutral[kind].text, concept.targets)));
    byId("cost").textContent = cost(result.neutral.kl);
  }
  draw();
}

function draw() {
  const concept = conceptOf(state), {first_detectable: seen, half_way: half} = concept.curve.onsets;
  if (!result.wrong) byId("words").replaceChildren(concept.targets.length ? drawBars(result, concept, byId("words").clientWidth) : "What this concept is read by is judged, and has no words of its own.");
  byId("curve").replaceChildren(drawCurve(state, byId("curve").clientWidth));
  byId("curve-told").textContent = `Steerability of ${concept.name}: first detectable: ${seen.text}, half-way up: ${half.text} (training steps, with ${100 * study.level} % intervals). ` +
    `How much α moves the log-odds of its words against foils, over the study's test prompts, in the layer chosen at each step (${chosenLayer(state)} here), by ${study.method}; null: directions from shuffled labels.`;
}

// --- what is done ------------------------------------------------------------------------------------------------------------

let waiting = false;

function change(changes) {
  const before = conceptOf(state);
  state = {...state, ...changes};
  remarks = [];
  if (changes.concept && state.prompt === before.prompts[0]) state.prompt = conceptOf(state).prompts[0];
  if (waiting) return; // of many changes in one frame the last is shown
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    history.replaceState(null, "", link(state));
    show();
  });
}

function follow() {
  state = read(location.hash);
  show();
}

async function save() {
  const {step, concept, alpha, prompt, neutral} = state, told = heads(state);
  const kinds = ["unsteered", "pushed", "random"].filter((kind) => result[kind]), pictures = [(width) => drawCurve(state, width)];
  if (conceptOf(state).targets.length) pictures.unshift((width) => drawBars(result, conceptOf(state), width));
  const blocks = kinds.map((kind) => ({head: told[kind], words: `${clean(prompt)} ▸${result[kind].text}`}));
  blocks.push({head: `Neutral text, pushed. ${cost(result.neutral.kl)}`, words: `${study.neutral[neutral]} ▸${result.neutral.pushed.text}`});
  const drawing = poster(`${study.study}, step ${step}: ${concept}, α ${sure(alpha)}`, blocks, pictures);
  const address = URL.createObjectURL(await png(drawing));
  node("a", {href: address, download: `${study.study}-step-${step}-${concept}-alpha-${alpha}.png`}).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
  byId("done").textContent = "Saved.";
}

async function copy() {
  try {
    await navigator.clipboard.writeText(location.href);
    byId("done").textContent = "Copied.";
  } catch {
    byId("done").textContent = "The link is the page's address.";
  }
}

function begin() {
  const {steps, alpha, concepts, about} = study, on = (id, event, act) => byId(id).addEventListener(event, act);
  byId("lead").textContent = `A small language model (${study.study}) runs here, in your browser, as it was at ${steps.length === 1 ? "one moment" : `${steps.length} moments`} of its training. ` +
    "Choose a concept, push the model's inner state towards it, and move the training step: when do its words begin to follow? And when is a push too much?";
  document.querySelector("main").hidden = false;
  byId("step").max = steps.length - 1;
  byId("steps").replaceChildren(...steps.map((_, value) => node("option", {value})));
  Object.assign(byId("alpha"), {min: -alpha.most, max: alpha.most});
  options(byId("concept"), concepts.map(({name}) => [name, name]));
  options(byId("neutral"), study.neutral.map((words, k) => [k, shown(words)]));
  byId("about").textContent = `${study.study}; steerlib ${about.steerlib}, commit ${about.git_commit}, made ${about.created}. Weights are rounded to float16; the likeliest token is written each time.`;
  on("step", "input", (event) => change({step: steps[event.target.value]}));
  on("concept", "change", (event) => change({concept: event.target.value}));
  on("layer", "change", (event) => change({layer: event.target.value}));
  for (const radio of document.getElementsByName("operator")) radio.addEventListener("change", () => change({operator: radio.value}));
  on("alpha", "input", (event) => change({alpha: Number(event.target.value)}));
  on("prompt", "input", (event) => change({prompt: event.target.value}));
  on("examples", "change", (event) => event.target.value && change({prompt: event.target.value}));
  on("control", "change", (event) => change({random: event.target.checked ? 1 : 0}));
  on("another", "click", () => change({random: state.random + 1}));
  on("neutral", "change", (event) => change({neutral: Number(event.target.value)}));
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  on("save", "click", save);
  on("copy", "click", copy);
  if (self.origin === "null" && location.protocol !== "file:") { // in JupyterLab's frame, which lets nothing out
    byId("save").hidden = byId("copy").hidden = true;
    byId("done").textContent = "To save or to share what is shown, open explorer.html by itself.";
  }
  addEventListener("hashchange", follow);
  addEventListener("resize", draw);
  follow();
}

try {
  begin();
} catch (error) {
  byId("said").hidden = false;
  byId("said").textContent = `This browser cannot run the model (${error.message}); a newer one can.`;
  throw error;
}

// The page: what its address asks for (#q=, like, source, license, image), as tiles and as one image in a dialog.
import { loadEncoder, read, readJson, Vectors } from "./engine.js";

const STEP = 30; // tiles at a time
const at = (id) => document.getElementById(id);
const site = await readJson("site.json");
const readers = navigator.languages.map((code) => code.split("-")[0]);
const reader = readers.find((code) => site.texts[code]) ?? (site.texts.en ? "en" : Object.keys(site.texts)[0]);
const words = site.texts[reader];
const count = new Intl.NumberFormat(reader);
const languageNames = new Intl.DisplayNames(reader, { type: "language" });
const images = await readJson("images.json.bin");
const places = new Map(images.keys.map((key, image) => [key, image]));
const vectors = read("vectors.bin").then((bytes) => new Vectors(bytes, images.keys.length));
vectors.catch(() => {}); // told when somebody searches

let encoder = null; // loaded when somebody wants to write
let hits = [];
let turn = 0;
let shown = "";

function engine() {
  encoder ??= loadEncoder(site);
  encoder.catch(() => { encoder = null; });
  return encoder;
}

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const state = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

/** Return the address of what is shown, with changes; "" leaves a part out. */
function address(changes, from = state()) {
  const parts = Object.entries({ ...from, ...changes }).filter(([, value]) => value);
  return `#${new URLSearchParams(parts)}`;
}

function go(changes, { replace = false } = {}) {
  const hash = address(changes);
  if (hash === (location.hash || "#")) return;
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  show();
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  return Object.assign(made, attributes);
}

/** Return the name of a language; a code that no browser knows is its own name. */
function languageName(code) {
  try {
    return languageNames.of(code);
  } catch {
    return code;
  }
}

/** Show texts that others wrote: as text, in their own direction, and never as a link to anything but a page. */
const nameOf = (image) => images.captions[image][0] ?? "";
function webAddress(text) {
  try {
    return /^https?:$/.test(new URL(text).protocol) ? text : "";
  } catch {
    return "";
  }
}

function tile({ image, cosine }) {
  const [width, height] = images.sizes[image];
  const picture = element("img", "", { src: `thumbs/${images.keys[image]}.webp`, alt: nameOf(image).slice(0, 300), loading: "lazy", decoding: "async", width, height });
  const caption = element("span", nameOf(image), { dir: "auto", lang: site.language, ariaHidden: "true" });
  const link = element("a", "", { href: address({ image: images.keys[image] }) });
  const item = element("li", "");
  item.style.setProperty("--ratio", Math.min(2.2, Math.max(0.6, width / height)).toFixed(3));
  if (cosine !== undefined) item.dataset.cosine = cosine.toFixed(5);
  link.append(picture, caption);
  item.append(link);
  return item;
}

function addTiles() {
  const start = at("tiles").children.length;
  at("tiles").append(...hits.slice(start, start + STEP).map(tile));
  at("more").hidden = start + STEP >= hits.length;
  return at("tiles").children[start]?.firstChild;
}

function filtered({ source = "", license = "" }) {
  const fits = (image) => (!source || images.sources[images.source[image]] === source)
    && (!license || images.licenses[images.license[image]][0] === license);
  return Uint32Array.from(images.keys.keys()).filter(fits);
}

/** Return what an address asks for: images, best first, and the line above them. */
async function found(asked) {
  const chosen = filtered(asked);
  const total = count.format(chosen.length);
  const similar = places.get(asked.like);
  if (similar !== undefined) {
    const found = await vectors;
    return [found.rank(found.of(similar), chosen.filter((image) => image !== similar)), fill(words.like, { caption: nameOf(similar).slice(0, 80) })];
  }
  const text = (asked.q ?? "").trim();
  if (!text) return [Array.from(chosen, (image) => ({ image })), fill(words.browse, { total })];
  if (!encoder) at("count").textContent = fill(words.loading, { size: count.format(Math.ceil(site.model_bytes / 1e6)) });
  const vector = await (await engine())(text);
  return [(await vectors).rank(vector, chosen), fill(words.found, { total })];
}

async function showResults(asked) {
  const mine = ++turn;
  try {
    const [ranked, line] = await found(asked);
    if (mine !== turn) return; // somebody wrote on
    hits = ranked;
    at("count").textContent = hits.length ? line : words.none;
    at("tiles").replaceChildren();
    addTiles();
    if (at("bar").getBoundingClientRect().top < 0) at("bar").scrollIntoView();
  } catch (error) {
    if (mine === turn) at("count").textContent = `${words.failed} (${error.message})`;
  }
}

function showImage(key) {
  const image = places.get(key);
  if (image === undefined) return void (at("dialog").open && at("dialog").close());
  const [first, ...others] = images.captions[image];
  const [width, height] = images.sizes[image];
  const [, terms] = images.licenses[images.license[image]];
  Object.assign(at("picture"), { src: `thumbs/${key}.webp`, alt: nameOf(image).slice(0, 300), width, height });
  Object.assign(at("caption"), { textContent: first ?? "", lang: site.language });
  at("captions").replaceChildren(...others.map((text) => element("li", text, { dir: "auto", lang: site.language })));
  at("by").textContent = images.by[image] ?? "";
  at("terms").textContent = terms || (images.sources[images.source[image]] && words.unlicensed);
  at("rights").hidden = !at("by").textContent && !at("terms").textContent;
  const page = webAddress(images.page[image] ?? "");
  at("page").hidden = !page;
  at("page").href = page || "#";
  at("similar").href = address({ like: key, image: "", q: "" });
  const place = hits.findIndex((hit) => hit.image === image);
  for (const [id, other] of [["previous", hits[place - 1]], ["next", place < 0 ? undefined : hits[place + 1]]]) {
    at(id).hidden = !other;
    at(id).href = other ? address({ image: images.keys[other.image] }) : "#";
  }
  at("close").href = address({ image: "" });
  if (!at("dialog").open) at("dialog").showModal();
}

async function show() {
  const asked = state();
  const { image = "", ...rest } = asked;
  const wanted = address({}, rest);
  if (document.activeElement !== at("query")) at("query").value = asked.q ?? "";
  for (const name of ["source", "license"]) at(name).value = asked[name] ?? "";
  at("all").hidden = wanted === "#";
  if (wanted !== shown || !hits.length) {
    shown = wanted;
    if (!image && at("dialog").open) at("dialog").close();
    await showResults(rest);
  }
  if ((state().image ?? "") === image) showImage(image);
}

function fillFilter(name, values) {
  const choices = values.map((value) => element("option", value || words.unlicensed, { value }));
  at(name).replaceChildren(element("option", words.any, { value: "" }), ...choices);
  at(name).parentElement.hidden = choices.length < 2;
  at(name).addEventListener("change", () => go({ [name]: at(name).value }));
}

function onKey(event) {
  const isWriting = event.target.matches("input, select");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (at("dialog").open) {
    const link = at({ ArrowLeft: "previous", ArrowRight: "next" }[event.key] ?? "");
    if (link && !link.hidden) go({ image: new URLSearchParams(link.hash.slice(1)).get("image") }, { replace: true });
  } else if (event.key === "/" && !isWriting) {
    event.preventDefault();
    at("query").focus();
  }
}

function start() {
  document.documentElement.lang = reader;
  for (const made of document.querySelectorAll("[data-text]")) made.textContent = words[made.dataset.text];
  at("query").placeholder = words.hint;
  const languages = new Intl.ListFormat(reader, { type: "disjunction" }).format(site.languages.map(languageName));
  if (languages && `${site.languages}` !== reader) at("write").textContent = fill(words.write, { languages });
  at("still").remove();
  at("credits").textContent = site.credits;
  fillFilter("source", images.sources);
  fillFilter("license", [...new Set(images.licenses.map(([name]) => name))]);
  let waiting;
  const search = (replace) => {
    clearTimeout(waiting);
    go({ q: at("query").value.trim(), like: "", image: "" }, { replace });
  };
  at("form").addEventListener("submit", (event) => { event.preventDefault(); search(false); });
  at("query").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 300, true); });
  at("query").addEventListener("focus", () => engine().catch(() => {}), { once: true });
  at("more").addEventListener("click", () => addTiles()?.focus());
  at("dialog").addEventListener("cancel", (event) => { event.preventDefault(); go({ image: "" }); });
  at("dialog").addEventListener("click", (event) => { if (event.target === at("dialog")) go({ image: "" }); });
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", show);
  show();
}

start();

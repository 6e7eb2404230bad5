"use strict";

// One pair at a time. The state is all that is rated; every change is kept in this browser at once, under the audit's
// id, and drawn anew. Texts of the dataset reach the page as text nodes only.

const audit = JSON.parse(document.getElementById("audit").textContent);
const STORAGE_KEY = `vernaclip-audit-${audit.audit_id}`;
const GRADES = ["1", "2", "3", "4"];

const state = emptyState();
let keepsState = true; // this browser stores data for the page
let savedAll = true; // the last CSV contains all ratings and comments

function emptyState() {
  return { rater: "", position: 0, ratings: {}, comments: {} };
}

function at(id) {
  return document.getElementById(id);
}

// ---- ratings --------------------------------------------------------------------------------------------------------

function row() {
  return audit.rows[state.position];
}

function ratingOf(rowId) {
  return state.ratings[rowId] ?? "";
}

function countRated() {
  return audit.rows.filter((each) => ratingOf(each.row_id)).length;
}

function setRating(rating) {
  if (rating) state.ratings[row().row_id] = rating;
  else delete state.ratings[row().row_id];
  changed();
}

function setComment(comment) {
  if (comment.trim()) state.comments[row().row_id] = comment;
  else delete state.comments[row().row_id];
  changed();
}

function changed() {
  savedAll = false;
  keep();
}

function rateAndMoveOn(rating) {
  const place = state.position + 1;
  setRating(rating);
  if (state.position < audit.rows.length - 1) goTo(state.position + 1);
  else moveToUnrated();
  say(`Pair ${place} rated ${rating}.`);
}

function clearRating() {
  setRating("");
  say(`Pair ${state.position + 1} has no rating.`);
  draw();
}

// ---- navigation -----------------------------------------------------------------------------------------------------

function goTo(position) {
  state.position = position;
  say("");
  keep();
  draw();
}

function move(step) {
  const target = state.position + step;
  if (audit.rows[target]) goTo(target);
  else say(`This is the ${step < 0 ? "first" : "last"} pair.`);
}

/** Go to the next pair without a rating; after the last pair, start from the first. */
function moveToUnrated() {
  const steps = audit.rows.map((_, index) => (state.position + index + 1) % audit.rows.length);
  goTo(steps.find((position) => !ratingOf(audit.rows[position].row_id)) ?? state.position);
}

// ---- storage in this browser ----------------------------------------------------------------------------------------

function keep() {
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify(state));
    keepsState = true;
  } catch {
    keepsState = false;
  }
  drawStorage();
}

/** Restore the state that this browser stored, as far as it belongs to this audit. */
function recall() {
  try {
    const found = JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "null");
    if (found) adopt(found);
  } catch {
    keepsState = false;
  }
}

function adopt(found) {
  const known = new Set(audit.rows.map((each) => each.row_id));
  const fitting = (texts, fits) => Object.fromEntries(
    Object.entries(texts ?? {}).filter(([rowId, text]) => known.has(rowId) && typeof text === "string" && fits(text)),
  );
  state.rater = typeof found.rater === "string" ? found.rater : "";
  state.position = Number.isInteger(found.position) && audit.rows[found.position] ? found.position : 0;
  state.ratings = fitting(found.ratings, (text) => GRADES.includes(text));
  state.comments = fitting(found.comments, () => true);
  savedAll = false;
}

function forget() {
  if (!confirm(`Delete ${countRated()} ratings and all comments? A saved CSV can restore them.`)) return;
  Object.assign(state, emptyState());
  changed();
  at("keys").close();
  say("All ratings here are deleted.");
  draw();
}

// ---- CSV ------------------------------------------------------------------------------------------------------------

/** Return whether a spreadsheet would compute a cell, or the cell begins with our mark against that. */
function isRisky(text) {
  return audit.risky_starts.some((start) => text.startsWith(start));
}

function cell(text) {
  const safe = isRisky(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function textOf(safe) {
  return safe.startsWith("'") && isRisky(safe.slice(1)) ? safe.slice(1) : safe;
}

function csvOfRatings() {
  const lines = audit.rows.map(({ row_id }) =>
    [audit.audit_id, row_id, ratingOf(row_id), state.comments[row_id] ?? "", state.rater.trim()]);
  return [audit.columns, ...lines].map((cells) => `${cells.map(cell).join(",")}\r\n`).join("");
}

function save() {
  hideProblem();
  const name = state.rater.trim();
  if (!name) {
    at("rater").focus();
    showProblem("Enter your name first: it is part of the file's name.");
    return;
  }
  const fileName = `ratings-${name.normalize("NFC").replace(/[^\p{L}\p{M}\p{N}._-]+/gu, "-").replace(/^[.-]+|[.-]+$/g, "") || "rater"}.csv`;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csvOfRatings()], { type: "text/csv;charset=utf-8" }));
  link.download = fileName;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  savedAll = true;
  const missing = audit.rows.length - countRated();
  say(`Saved ${fileName}${missing ? `; ${missing} pairs have no rating` : ": hand it in"}.`);
}

/** Return the records of a CSV text (RFC 4180, with LF as a line end); semicolons and tabs of spreadsheets work, too. */
function parseCsv(text) {
  const delimiter = [";", "\t"].find((each) => text.split("\n", 1)[0].includes(each)) ?? ",";
  const records = [];
  let record = [];
  const cells = new RegExp(`("(?:[^"]|"")*"|[^${delimiter}"\\r\\n]*)(${delimiter}|\\r\\n|\\n|\\r|$)`, "gy");
  while (cells.lastIndex < text.length) {
    const match = cells.exec(text);
    if (!match) throw new Error("its quotes do not match");
    record.push(match[1].startsWith('"') ? match[1].slice(1, -1).replaceAll('""', '"') : match[1]);
    if (match[2] === delimiter && cells.lastIndex === text.length) record.push("");
    if (match[2] !== delimiter || cells.lastIndex === text.length) {
      records.push(record);
      record = [];
    }
  }
  return records.filter((each) => each.join("") !== "");
}

/** Return the state in a saved CSV; throw an Error with a reason if it does not belong to this audit. */
function stateOfCsv(text) {
  const [header, ...records] = parseCsv(text.replace(/^\uFEFF/, ""));
  if (header?.join() !== audit.columns.join()) throw new Error(`its first line is not ${audit.columns.join()}`);
  const known = new Set(audit.rows.map((each) => each.row_id));
  const found = emptyState();
  records.forEach((cells, index) => {
    const [auditId, rowId, rating, comment, rater] = cells.map(textOf);
    const where = `row ${index + 2}`;
    if (cells.length !== audit.columns.length) throw new Error(`${where} has ${cells.length} cells`);
    if (auditId !== audit.audit_id) throw new Error(`it belongs to audit ${auditId}, this is ${audit.audit_id}`);
    if (!known.has(rowId)) throw new Error(`${where} names a pair that is not in this audit`);
    if (rating && !GRADES.includes(rating)) throw new Error(`the rating in ${where} is ${rating}, not 1 to 4`);
    if (rating) found.ratings[rowId] = rating;
    if (comment) found.comments[rowId] = comment;
    found.rater = rater;
  });
  return found;
}

/** Return the number of pairs with a rating or a comment here that a loaded state would change. */
function countChanged(found) {
  const differs = (here, there) => here !== undefined && here !== there;
  return audit.rows.filter(({ row_id }) => differs(state.ratings[row_id], found.ratings[row_id])
    || differs(state.comments[row_id], found.comments[row_id])).length;
}

async function load(file) {
  hideProblem();
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    const found = stateOfCsv(text);
    const lost = countChanged(found);
    if (lost && !confirm(`The file has other ratings or comments for ${lost} pairs than this page. Replace them?`)) return;
    Object.assign(state, found);
    keep();
    savedAll = true;
    say(`Loaded ${countRated()} ratings by ${state.rater}.`);
    draw();
  } catch (error) {
    const reason = error instanceof TypeError ? "it is not UTF-8" : error.message;
    showProblem(`${file.name} cannot be loaded: ${reason}.`);
  }
}

// ---- display --------------------------------------------------------------------------------------------------------

function languageName(code) {
  try {
    return new Intl.DisplayNames("en", { type: "language" }).of(code);
  } catch {
    return code;
  }
}

function draw() {
  const { row_id, source_text, source_lang, text, target_lang } = row();
  at("place").textContent = `Pair ${state.position + 1} of ${audit.rows.length}`;
  drawText("source", source_lang, source_text);
  drawText("translation", target_lang, text);
  at("source-name").textContent = `${languageName(source_lang)}, the source`;
  at("target-name").textContent = `${languageName(target_lang)}, the translation`;
  drawRating(ratingOf(row_id));
  if (at("comment").value !== (state.comments[row_id] ?? "")) at("comment").value = state.comments[row_id] ?? "";
  if (at("rater").value !== state.rater) at("rater").value = state.rater;
  at("done").hidden = countRated() < audit.rows.length;
  at("count").textContent = `${countRated()} of ${audit.rows.length} rated`;
  drawMap();
  drawStorage();
}

/** Set a text only if it changes, because screen readers read every change. */
function drawText(id, language, text) {
  at(id).lang = language;
  if (at(id).textContent !== text) at(id).textContent = text;
}

/** Check the radio button of a rating. If a grade has the focus, move it there, because arrow keys start from it. */
function drawRating(rating) {
  for (const radio of document.getElementsByName("rating")) {
    radio.checked = radio.value === rating;
    if (radio.checked && document.activeElement?.name === "rating") radio.focus();
  }
}

function drawMap() {
  [...at("map").children].forEach((mark, position) => {
    mark.className = ratingOf(audit.rows[position].row_id) ? "rated" : "";
    if (position === state.position) mark.classList.add("here");
  });
}

function drawStorage() {
  at("kept").textContent = keepsState ? "Stored in this browser" : "";
  at("storage").hidden = keepsState;
  const warning = "This browser does not store your ratings: save the CSV before you close or reload this page.";
  if (!keepsState && !at("storage").textContent) at("storage").textContent = warning;
}

function say(text) {
  at("status").textContent = text;
}

function showProblem(text) {
  at("problem").textContent = text;
  at("problem").hidden = false;
}

function hideProblem() {
  at("problem").hidden = true;
}

function toggleKeys() {
  if (at("keys").open) at("keys").close();
  else at("keys").showModal();
}

// ---- paper ----------------------------------------------------------------------------------------------------------

function element(name, className, text, language) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  if (language) {
    made.lang = language;
    made.dir = "auto";
  }
  return made;
}

function paperPair(each, position) {
  const boxes = GRADES.map((grade) => `${ratingOf(each.row_id) === grade ? "☒" : "☐"} ${grade}`).join("   ");
  const pair = element("div", "pair", "");
  pair.append(
    element("p", "source", `${position + 1}. ${each.source_text}`, each.source_lang),
    element("p", "translated", each.text, each.target_lang),
    element("p", "boxes", boxes),
    element("p", "remark", state.comments[each.row_id] ?? ""),
  );
  return pair;
}

function drawPaper() {
  const scale = [...document.querySelectorAll("#scale label")].map((label) => element("p", "", label.textContent.replace(/^(\d)/, "$1: ")));
  at("paper").replaceChildren(
    element("h1", "", `Rate translations: ${at("about").textContent}`),
    element("p", "", `Rater: ${state.rater.trim() || "____________________"}   Audit: ${audit.audit_id}`),
    ...scale,
    ...audit.rows.map(paperPair),
  );
}

// ---- keys and buttons -----------------------------------------------------------------------------------------------

const KEYS = {
  ArrowRight: () => move(1),
  j: () => move(1),
  ArrowLeft: () => move(-1),
  k: () => move(-1),
  u: moveToUnrated,
  0: clearRating,
  Backspace: clearRating,
  c: () => at("comment").focus(),
  s: save,
  "?": toggleKeys,
  ...Object.fromEntries(GRADES.map((grade) => [grade, () => rateAndMoveOn(grade)])),
};
const MAY_REPEAT = new Set(["ArrowRight", "ArrowLeft", "j", "k"]); // other keys act once when held down

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.matches("textarea, input[type=text]")) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.matches("input"))) event.target.blur();
    return;
  }
  if ((at("keys").open && event.key !== "?") || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  if (!event.repeat || MAY_REPEAT.has(event.key)) KEYS[event.key]();
}

/** Rate by pointer and go to the next pair, as digits do; the space bar and arrow keys only rate. */
function onGrade(grade, byPointer) {
  if (byPointer) rateAndMoveOn(grade);
  else {
    setRating(grade);
    draw();
  }
}

function start() {
  const pairs = [...new Set(audit.rows.map((each) => `${languageName(each.source_lang)} to ${languageName(each.target_lang)}`))];
  at("about").textContent = `${pairs.join(", ")}; dataset ${audit.dataset}, ${audit.rows.length} pairs`;
  audit.rows.forEach((_, position) => {
    const mark = document.createElement("i");
    mark.addEventListener("click", () => goTo(position));
    at("map").append(mark);
  });
  for (const radio of document.getElementsByName("rating")) {
    let byPointer = false; // the click event comes before the change event; for keys its detail is 0
    radio.addEventListener("click", (event) => { byPointer = event.detail > 0; });
    radio.addEventListener("change", () => onGrade(radio.value, byPointer));
  }
  const onClick = { save, load: () => at("file").click(), help: toggleKeys, close: toggleKeys, forget,
    previous: () => move(-1), next: () => move(1), unrated: moveToUnrated, clear: clearRating };
  for (const [id, act] of Object.entries(onClick)) at(id).addEventListener("click", act);
  at("comment").addEventListener("input", () => setComment(at("comment").value));
  at("rater").addEventListener("input", () => { state.rater = at("rater").value; hideProblem(); changed(); });
  at("file").addEventListener("change", async () => { await load(at("file").files[0]); at("file").value = ""; });
  document.addEventListener("keydown", onKey);
  addEventListener("beforeprint", drawPaper);
  addEventListener("storage", (event) => { if (event.key === STORAGE_KEY) { recall(); draw(); } });
  addEventListener("beforeunload", (event) => { if (!keepsState && !savedAll) event.preventDefault(); });
  recall();
  keep();
  draw();
}

start();

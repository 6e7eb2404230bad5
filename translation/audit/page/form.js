"use strict";

// One row at a time. The state is all that a person answered; every change is kept in this browser at once, under the
// form's id, and drawn anew. Texts reach the page as text nodes only.

const form = JSON.parse(document.getElementById("form").textContent);
const words = form.words;
const GRADES = form.grades;
const STORAGE_KEY = `vernaclip-audit-${form.id}`;

const state = emptyState();
let keepsState = true; // this browser stores data for the page
let savedAll = true; // the last CSV contains all answers

function emptyState() {
  return { person: "", position: 0, answers: {} };
}

function at(id) {
  return document.getElementById(id);
}

/** Return a text of the page with values in the places of its {}. */
function worded(name, ...values) {
  return words[name].replaceAll("{}", () => values.shift());
}

// ---- answers --------------------------------------------------------------------------------------------------------

function row() {
  return form.rows[state.position];
}

function answer(rowId, field) {
  return state.answers[rowId]?.[field] ?? "";
}

function setAnswer(field, text) {
  const answers = { ...state.answers[row().row_id], [field]: text };
  if (!text.trim()) delete answers[field];
  state.answers[row().row_id] = answers;
  changed();
}

function countDone() {
  return form.rows.filter(({ row_id }) => ratingOf(row_id)).length;
}

function changed() {
  savedAll = false;
  at("saved").hidden = true;
  keep();
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
  if (form.rows[target]) goTo(target);
  else if (step > 0 && !at("done").hidden) scrollTo(0, 0); // where it says what to do now
  else say(worded(step < 0 ? "first" : "last"));
}

/** Go to the next row without an answer; after the last row, start from the first. */
function moveToOpen() {
  const steps = form.rows.map((_, index) => (state.position + index + 1) % form.rows.length);
  goTo(steps.find((position) => !ratingOf(form.rows[position].row_id)) ?? state.position);
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

/** Restore the state that this browser stored, as far as it belongs to this form. */
function recall() {
  try {
    const found = JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "null");
    if (found) adopt(found);
  } catch {
    keepsState = false;
  }
}

function adopt(found) {
  state.person = typeof found.person === "string" ? found.person : "";
  state.position = Number.isInteger(found.position) && form.rows[found.position] ? found.position : 0;
  state.answers = {};
  for (const { row_id } of form.rows) {
    const fitting = Object.entries(found.answers?.[row_id] ?? {}).filter(([field, text]) => fits(field, text));
    if (fitting.length) state.answers[row_id] = Object.fromEntries(fitting);
  }
  savedAll = false;
}

function fits(field, text) {
  return form.fields.includes(field) && typeof text === "string" && (field !== "rating" || GRADES.includes(text));
}

function forget() {
  if (!confirm(worded("forget_sure", countDone()))) return;
  Object.assign(state, emptyState());
  changed();
  at("helping").close();
  say(worded("forgotten"));
  draw();
}

// ---- CSV ------------------------------------------------------------------------------------------------------------

/** Return whether a spreadsheet would compute a cell, or the cell begins with our mark against that. */
function isRisky(text) {
  return form.risky_starts.some((start) => text.startsWith(start));
}

function cell(text) {
  const safe = isRisky(text) ? `'${text}` : text;
  return /[",;\t\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function textOf(safe) {
  return safe.startsWith("'") && isRisky(safe.slice(1)) ? safe.slice(1) : safe;
}

function csvOfAnswers() {
  const fixed = { audit_id: form.id, rater: state.person.trim(), saved: new Date().toISOString() };
  const lines = form.rows.map(({ row_id }) => {
    const record = { ...state.answers[row_id], ...fixed, row_id };
    return form.columns.map((column) => record[column] ?? "");
  });
  return [form.columns, ...lines].map((cells) => `${cells.map(cell).join(",")}\r\n`).join("");
}

function save() {
  hideProblem();
  const name = state.person.trim();
  if (!name) {
    at("person").focus();
    showProblem(worded("name_first"));
    return;
  }
  const fileName = `${words.file}-${name.normalize("NFC").replace(/[^\p{L}\p{M}\p{N}._-]+/gu, "-").replace(/^[.-]+|[.-]+$/g, "") || "1"}.csv`;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csvOfAnswers()], { type: "text/csv;charset=utf-8" }));
  link.download = fileName;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  savedAll = true;
  const missing = form.rows.length - countDone();
  at("saved").textContent = missing ? worded("saved_in_part", fileName, missing) : worded("saved", fileName);
  at("saved").hidden = false;
}

/** Return the records of a CSV text (RFC 4180, with LF as a line end); semicolons and tabs of spreadsheets work, too. */
function parseCsv(text) {
  const delimiter = [";", "\t"].find((each) => text.split("\n", 1)[0].includes(each)) ?? ",";
  const records = [];
  let record = [];
  const cells = new RegExp(`("(?:[^"]|"")*"|[^${delimiter}"\\r\\n]*)(${delimiter}|\\r\\n|\\n|\\r|$)`, "gy");
  while (cells.lastIndex < text.length) {
    const match = cells.exec(text);
    if (!match) throw new Error(worded("not_csv"));
    record.push(match[1].startsWith('"') ? match[1].slice(1, -1).replaceAll('""', '"') : match[1]);
    if (match[2] === delimiter && cells.lastIndex === text.length) record.push("");
    if (match[2] !== delimiter || cells.lastIndex === text.length) {
      records.push(record);
      record = [];
    }
  }
  return records.filter((each) => each.join("") !== "");
}

/** Return the state in a saved CSV; throw an Error with a reason if it does not belong to this form. */
function stateOfCsv(text) {
  const [header, ...records] = parseCsv(text.replace(/^\uFEFF/, ""));
  if (header?.join() !== form.columns.join()) throw new Error(worded("not_this_form"));
  const known = new Set(form.rows.map((each) => each.row_id));
  const found = emptyState();
  records.forEach((cells, index) => {
    if (cells.length !== form.columns.length) throw new Error(worded("not_csv"));
    const record = Object.fromEntries(form.columns.map((column, place) => [column, textOf(cells[place])]));
    if (record.audit_id !== form.id) throw new Error(worded("not_this_form"));
    const given = form.fields.map((field) => [field, record[field]]).filter(([, text]) => text);
    if (!known.has(record.row_id) || !given.every(([field, text]) => fits(field, text))) throw new Error(worded("bad_row", index + 2));
    if (given.length) found.answers[record.row_id] = Object.fromEntries(given);
    found.person = record.rater;
  });
  return found;
}

/** Return the number of rows with an answer here that a loaded state would change. */
function countChanged(found) {
  return form.rows.filter(({ row_id }) => Object.entries(state.answers[row_id] ?? {})
    .some(([field, text]) => text !== found.answers[row_id]?.[field])).length;
}

async function load(file) {
  hideProblem();
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    const found = stateOfCsv(text);
    const lost = countChanged(found);
    if (lost && !confirm(worded("replace", lost))) return;
    Object.assign(state, found);
    keep();
    savedAll = true;
    say(worded("loaded", countDone(), state.person));
    draw();
  } catch (error) {
    showProblem(worded("not_loaded", file.name, error instanceof TypeError ? worded("not_utf8") : error.message));
  }
}

// ---- display --------------------------------------------------------------------------------------------------------

function draw() {
  at("place").textContent = worded("place", state.position + 1, form.rows.length);
  drawPair(row());
  if (at("person").value !== state.person) at("person").value = state.person;
  at("done").hidden = countDone() < form.rows.length;
  at("forget").hidden = !Object.keys(state.answers).length;
  at("count").textContent = worded("count", countDone(), form.rows.length);
  [...at("map").children].forEach((mark, position) => {
    mark.className = ratingOf(form.rows[position].row_id) ? "answered" : "";
    if (position === state.position) mark.classList.add("here");
  });
  drawStorage();
}

function drawStorage() {
  at("kept").textContent = keepsState ? words.stored : "";
  at("storage").hidden = keepsState;
  if (!keepsState && !at("storage").textContent) at("storage").textContent = words.not_stored;
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

function toggleHelp() {
  if (at("helping").open) at("helping").close();
  else {
    at("helping").showModal();
    at("helping").scrollTop = 0; // the focus is on the button below a long text
  }
}

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

// ---- the rating of translations -------------------------------------------------------------------------------------

function ratingOf(rowId) {
  return answer(rowId, "rating");
}

function rateAndMoveOn(rating) {
  const place = state.position + 1;
  setAnswer("rating", rating);
  if (state.position < form.rows.length - 1) goTo(state.position + 1);
  else moveToOpen();
  say(`Pair ${place} rated ${rating}.`);
}

function clearRating() {
  setAnswer("rating", "");
  say(`Pair ${state.position + 1} has no rating.`);
  draw();
}

// ---- display of a pair ----------------------------------------------------------------------------------------------

function languageName(code) {
  try {
    return new Intl.DisplayNames("en", { type: "language" }).of(code);
  } catch {
    return code;
  }
}

function drawPair({ row_id, source_text, source_lang, text, target_lang }) {
  drawText("source", source_lang, source_text);
  drawText("translation", target_lang, text);
  at("source-name").textContent = `${languageName(source_lang)}, the source`;
  at("target-name").textContent = `${languageName(target_lang)}, the translation`;
  drawRating(ratingOf(row_id));
  if (at("comment").value !== answer(row_id, "comment")) at("comment").value = answer(row_id, "comment");
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

// ---- paper ----------------------------------------------------------------------------------------------------------

function paperPair(each, position) {
  const boxes = GRADES.map((grade) => `${ratingOf(each.row_id) === grade ? "☒" : "☐"} ${grade}`).join("   ");
  const pair = element("div", "pair", "");
  pair.append(
    element("p", "source", `${position + 1}. ${each.source_text}`, each.source_lang),
    element("p", "translated", each.text, each.target_lang),
    element("p", "boxes", boxes),
    element("p", "remark", answer(each.row_id, "comment")),
  );
  return pair;
}

function drawPaper() {
  const scale = [...document.querySelectorAll("#scale label")].map((label) => element("p", "", label.textContent.replace(/^(\d)/, "$1: ")));
  at("paper").replaceChildren(
    element("h1", "", `Rate translations: ${at("about").textContent}`),
    element("p", "", `Rater: ${state.person.trim() || "____________________"}   Audit: ${form.id}`),
    ...scale,
    ...form.rows.map(paperPair),
  );
}

// ---- keys and buttons -----------------------------------------------------------------------------------------------

const KEYS = {
  ArrowRight: () => move(1),
  j: () => move(1),
  ArrowLeft: () => move(-1),
  k: () => move(-1),
  u: moveToOpen,
  0: clearRating,
  Backspace: clearRating,
  c: () => at("comment").focus(),
  s: save,
  "?": toggleHelp,
  ...Object.fromEntries(GRADES.map((grade) => [grade, () => rateAndMoveOn(grade)])),
};
const MAY_REPEAT = new Set(["ArrowRight", "ArrowLeft", "j", "k"]); // other keys act once when held down

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.matches("textarea, input[type=text]")) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.matches("input"))) event.target.blur();
    return;
  }
  if ((at("helping").open && event.key !== "?") || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  if (!event.repeat || MAY_REPEAT.has(event.key)) KEYS[event.key]();
}

/** Rate by pointer and go to the next pair, as digits do; the space bar and arrow keys only rate. */
function onGrade(grade, byPointer) {
  if (byPointer) rateAndMoveOn(grade);
  else {
    setAnswer("rating", grade);
    draw();
  }
}

const languages = [...new Set(form.rows.map((each) => `${languageName(each.source_lang)} to ${languageName(each.target_lang)}`))];
at("about").textContent = `${languages.join(", ")}; dataset ${form.dataset}, ${form.rows.length} pairs`;
for (const radio of document.getElementsByName("rating")) {
  let byPointer = false; // the click event comes before the change event; for keys its detail is 0
  radio.addEventListener("click", (event) => { byPointer = event.detail > 0; });
  radio.addEventListener("change", () => onGrade(radio.value, byPointer));
}
form.rows.forEach((_, position) => {
  const mark = document.createElement("i");
  mark.addEventListener("click", () => goTo(position));
  at("map").append(mark);
});
const onClick = { save, load: () => at("file").click(), help: toggleHelp, close: toggleHelp, forget,
  previous: () => move(-1), next: () => move(1), open: moveToOpen, clear: clearRating };
for (const [id, act] of Object.entries(onClick)) at(id).addEventListener("click", act);
at("person").addEventListener("input", () => { state.person = at("person").value; hideProblem(); changed(); });
at("comment").addEventListener("input", () => setAnswer("comment", at("comment").value));
at("file").addEventListener("change", async () => { await load(at("file").files[0]); at("file").value = ""; });
addEventListener("storage", (event) => { if (event.key === STORAGE_KEY) { recall(); draw(); } });
addEventListener("beforeunload", (event) => { if (!keepsState && !savedAll) event.preventDefault(); });
document.addEventListener("keydown", onKey);
addEventListener("beforeprint", drawPaper);
recall();
keep();
draw();

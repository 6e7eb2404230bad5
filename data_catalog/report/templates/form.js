"use strict";

// One row at a time. The state is all that a person answered; every change is kept in this browser at once, under the
// form's id, and drawn anew. Texts reach the page as text nodes only. A form's own script follows; it calls `start`.

const form = JSON.parse(document.getElementById("form").textContent);
const words = form.words;
const STORAGE_KEY = `vernaclip-${form.kind}-${form.id}`;

const state = emptyState();
let page = {}; // of the form's own script: isDone(rowId), draw(row)
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
  return form.rows.filter(({ row_id }) => page.isDone(row_id)).length;
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
  goTo(steps.find((position) => !page.isDone(form.rows[position].row_id)) ?? state.position);
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

/** Restore the state that this browser stored, as far as it belongs to this form; return whether there was one. */
function recall() {
  try {
    const found = JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "null");
    if (found) adopt(found);
    return Boolean(found);
  } catch {
    keepsState = false;
    return false;
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
  return form.fields.includes(field) && typeof text === "string" && (form.choices[field]?.includes(text) ?? true);
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
  const fixed = { [form.id_column]: form.id, [form.person_column]: state.person.trim(), saved: new Date().toISOString() };
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
  const fileName = `${form.file ?? words.file}-${name.normalize("NFC").replace(/[^\p{L}\p{M}\p{N}._-]+/gu, "-").replace(/^[.-]+|[.-]+$/g, "") || "1"}.csv`;
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
    if (record[form.id_column] !== form.id) throw new Error(worded("not_this_form"));
    const given = form.fields.map((field) => [field, record[field]]).filter(([, text]) => text);
    if (!known.has(record.row_id) || !given.every(([field, text]) => fits(field, text))) throw new Error(worded("bad_row", index + 2));
    if (given.length) found.answers[record.row_id] = Object.fromEntries(given);
    found.person = record[form.person_column];
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
  page.draw(row());
  if (at("person").value !== state.person) at("person").value = state.person;
  at("done").hidden = countDone() < form.rows.length;
  at("forget").hidden = !Object.keys(state.answers).length;
  at("count").textContent = worded("count", countDone(), form.rows.length);
  [...at("map").children].forEach((mark, position) => {
    mark.className = page.isDone(form.rows[position].row_id) ? "answered" : "";
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

/** Draw the form with the functions of its own script, and return whether this browser knew it. */
function start(own) {
  page = own;
  form.rows.forEach((_, position) => {
    const mark = document.createElement("i");
    mark.addEventListener("click", () => goTo(position));
    at("map").append(mark);
  });
  const onClick = { save, load: () => at("file").click(), help: toggleHelp, close: toggleHelp, forget,
    previous: () => move(-1), next: () => move(1), open: moveToOpen };
  for (const [id, act] of Object.entries(onClick)) at(id).addEventListener("click", act);
  at("person").addEventListener("input", () => { state.person = at("person").value; hideProblem(); changed(); });
  at("file").addEventListener("change", async () => { await load(at("file").files[0]); at("file").value = ""; });
  addEventListener("storage", (event) => { if (event.key === STORAGE_KEY) { recall(); draw(); } });
  addEventListener("beforeunload", (event) => { if (!keepsState && !savedAll) event.preventDefault(); });
  const isKnown = recall();
  keep();
  draw();
  return isKnown;
}

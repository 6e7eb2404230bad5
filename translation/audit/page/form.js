
// ---- the rating of translations -------------------------------------------------------------------------------------

const GRADES = form.choices.rating;

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
at("comment").addEventListener("input", () => setAnswer("comment", at("comment").value));
document.addEventListener("keydown", onKey);
addEventListener("beforeprint", drawPaper);
at("clear").textContent = words.clear;
at("clear").addEventListener("click", clearRating);
at("clear").hidden = false;
start({ isDone: ratingOf, draw: drawPair });

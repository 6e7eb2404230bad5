
// ---- captions of pictures -------------------------------------------------------------------------------------------

const CAPTIONS = form.fields.filter((field) => field !== "mark");
const boxes = CAPTIONS.map((field, place) => {
  const label = element("label", "", worded("caption", place + 1));
  const box = element("textarea", "", "", form.language);
  Object.assign(box, { id: field, rows: 2, maxLength: 2000 });
  label.htmlFor = field;
  box.addEventListener("input", () => { setAnswer(field, box.value); draw(); });
  at("captions").append(label, box);
  return { label, box, field };
});
const marks = [...document.querySelectorAll("#marks input")];
let shown = 1; // boxes for captions

function isDone(rowId) {
  return form.fields.some((field) => answer(rowId, field));
}

function drawPicture({ row_id, picture }) {
  const source = `data:image/webp;base64,${picture}`;
  if (at("picture").src !== source) {
    at("picture").src = source;
    shown = 1;
  }
  boxes.forEach(({ label, box, field }, place) => {
    const text = answer(row_id, field);
    if (text) shown = Math.max(shown, place + 1);
    if (box.value !== text) box.value = text;
  });
  boxes.forEach(({ label, box }, place) => { label.hidden = box.hidden = place >= shown; });
  at("another").hidden = shown === boxes.length;
  for (const mark of marks) mark.checked = answer(row_id, "mark") === mark.value;
}

for (const mark of marks) {
  mark.addEventListener("change", () => { setAnswer("mark", mark.checked ? mark.value : ""); draw(); });
}
at("another").addEventListener("click", () => { shown += 1; draw(); boxes[shown - 1].box.focus(); });
at("about").textContent = worded("pictures", form.rows.length);
if (!start({ isDone, draw: drawPicture })) toggleHelp();

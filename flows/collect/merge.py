"""Read the answers of all people, as often as they come, and merge them into one table of captions.

Of a person's answers to a picture, those saved last count; what they replace, and every caption that is not handed on,
is in a second table with its reason.
"""

import csv
import io
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cleaning.duplicates.near_captions import cluster_captions
from cleaning.languages.identification import detectable_code, language_identifier, wrong_language
from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.disk.files import write_bytes
from data_catalog.report.forms import RISKY_STARTS, sheet_rows, sheet_text
from data_catalog.rows.schema import NATIVE
from flows.collect.draw import ANSWER_COLUMNS, CANNOT_SAY, CAPTION_COLUMNS, NOT_SHOWN, SHEET_COLUMNS, SHEET_FILE
from flows.language_doctor import find_language
from translation.evaluate import sentence_chrf

CAPTIONS_COLUMNS = ("image", "caption", "lang", "origin", "person")
LEFT_OUT_COLUMNS = ("image", "caption", "person", "reason", "file")
_EXPECTED = f"the CSV files that people sent, and the folder with {SHEET_FILE} as --drawn"
Flags = npt.NDArray[np.bool_]
_MOST_REFUSALS = 2  # people who say that a picture should not be shown


class Answer(NamedTuple):
    """What a person said of a picture in one file."""

    captions: tuple[str, ...]
    mark: str
    saved: str  # time by the person's own clock, in ISO 8601
    file: str


@dataclass(slots=True, kw_only=True)
class Merged:
    """The answers of all people: captions by person and image, what was left out, and why."""

    language: str
    captions: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    left_out: list[dict[str, str]] = field(default_factory=list)
    dealt: Counter[str] = field(default_factory=Counter)  # pictures by person
    marks: dict[tuple[str, str], str] = field(default_factory=dict)  # of every answer, "" without one
    notes: list[str] = field(default_factory=list)  # on files and pictures

    def leave_out(self, image: str, person: str, caption: str, reason: str, file: str) -> None:
        """Record a caption that is not handed on."""
        row = (image, caption, person, reason, file)
        self.left_out.append(dict(zip(LEFT_OUT_COLUMNS, row, strict=True)))


def merge_answers(files: Sequence[Path], drawn: Path) -> Merged:
    """Merge the files that the forms saved; `drawn` is the folder that `draw` wrote.

    A damaged file gives its rows before the damage, and a note.
    """
    path = drawn / SHEET_FILE
    sheet = {cells["row_id"]: cells for _, cells in sheet_rows(path, SHEET_COLUMNS, expected=_EXPECTED)}
    first = next(iter(sheet.values()))
    merged = Merged(language=first["language"])
    with about(path, remedy="undo the change to it"):
        forms = {row_id: json.loads(cells["forms"]) for row_id, cells in sheet.items()}
    answers, names = defaultdict[tuple[tuple[str, str], str], list[Answer]](list), dict[tuple[str, str], str]()
    came = set[str]()
    for file in dict.fromkeys(files):
        with about(file, remedy=f"give {_EXPECTED}"):
            file.open("rb").close()  # a name that was mistyped is no damaged file
        for form, name, row_id, answer in _read(file, first["collect_id"], forms, merged.notes):
            who = form.partition(".")[0], name.casefold()
            names.setdefault(who, name)
            came.add(form)
            if answer.captions or answer.mark:
                answers[who, row_id].append(answer)
    shown = {who: name if [*names.values()].count(name) == 1 else f"{name} ({who[0]})" for who, name in names.items()}
    for who, person in shown.items():
        merged.dealt[person] = sum(who[0] in {name.partition(".")[0] for name in named} for named in forms.values())
    owners, copies = dict[tuple[str, ...], str](), Counter[tuple[str, str]]()
    for (who, row_id), found in sorted(answers.items(), key=lambda item: min(each.saved for each in item[1])):
        found.sort(key=lambda each: each.saved)
        said = who[0], row_id, found[-1].mark, *found[-1].captions
        owner = owners.setdefault(said, shown[who])
        copies[shown[who], owner] += owner != shown[who]
        _put(merged, shown[who], sheet[row_id]["image"], found, owner)
    merged.notes += [
        f"{person} has {count:,} answers of {owner} on the same form, which count once: one person with two names?"
        for (person, owner), count in (+copies).items()
    ]
    _leave_out_refused(merged)
    if silent := sorted({f"captions-{name}.html" for named in forms.values() for name in named if name not in came}):
        merged.notes.append(f"no answers yet from {', '.join(silent)}")
    return merged


def _read(
    path: Path, collect_id: str, forms: Mapping[str, Sequence[str]], notes: list[str]
) -> Iterator[tuple[str, str, str, Answer]]:
    """Yield form, name, row and answer of each row of a file, also of those without an answer; note what is wrong."""
    rows, strange, form, name = 0, 0, "", ""
    try:
        for _, cells in sheet_rows(path, ANSWER_COLUMNS, expected=_EXPECTED):
            drawing, _, own = cells["collect_id"].strip().partition("-")
            row_id = cells["row_id"].strip()
            if drawing != collect_id or own not in forms.get(row_id, ()):
                strange += 1
                continue
            rows, form = rows + 1, own
            # Of the first row: a cut file may have half of it in its last one.
            name = name or " ".join(cells["person"].split()).lstrip("".join(RISKY_STARTS)) or own
            captions = (" ".join(unicodedata.normalize("NFC", cells[column]).split()) for column in CAPTION_COLUMNS)
            answer = Answer(tuple(filter(None, captions)), cells["mark"].strip(), cells["saved"].strip(), path.name)
            yield form, name, row_id, answer
    except InputError as error:
        notes.append(f"{error}; {rows:,} rows before the damage are used")
    if strange:
        notes.append(f"{path}: {strange:,} rows are not of these forms, and are not used")
    expected = sum(form in named for named in forms.values())
    if rows and rows < expected:
        notes.append(f"{path}: it has {rows:,} of the {expected:,} rows of its form: ask {name} for the whole file")


def _put(merged: Merged, person: str, image: str, found: Sequence[Answer], owner: str) -> None:
    """Put a person's last answer to a picture among the captions, and what is not handed on among those left out.

    It is not handed on if another name, the owner, gave it on the same form.
    """
    *earlier, last = found
    for each in earlier:
        for caption in {*each.captions} - {*last.captions}:
            merged.leave_out(image, person, caption, f"replaced by {last.file}", each.file)
            if each.saved == last.saved:
                merged.notes.append(
                    f"{each.file} and {last.file} were saved at the same time and differ on {image}: one was changed "
                    f"by hand; {last.file} counts"
                )
    if owner != person:
        for caption in last.captions:
            merged.leave_out(image, person, caption, f"{owner} has it on the same form", last.file)
        return
    merged.marks[person, image] = last.mark
    kept = dict[str, None]()
    for caption in last.captions:
        if caption.startswith(RISKY_STARTS[:-1]):
            merged.leave_out(image, person, caption, "a spreadsheet would compute it", last.file)
        elif not any(map(str.isalpha, caption)):
            merged.leave_out(image, person, caption, "no words", last.file)
        else:
            kept[caption] = None
    if kept:
        merged.captions[person, image] = list(kept)


def _leave_out_refused(merged: Merged) -> None:
    """Leave out the captions of pictures that two people refused, and note those that one person did."""
    refusals = Counter(image for (_, image), mark in merged.marks.items() if mark == NOT_SHOWN)
    for (person, image), captions in list(merged.captions.items()):
        if refusals[image] >= _MOST_REFUSALS:
            del merged.captions[person, image]
            for caption in captions:
                merged.leave_out(image, person, caption, f"{refusals[image]} people said: {NOT_SHOWN}", "")
    merged.notes += [f"{image}: {count} said that it should not be shown" for image, count in refusals.items()]


def write_merged(merged: Merged, out: Path) -> Path:
    """Write the captions, ready for a source of kind `pairs`, and beside them those left out; return their path."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(CAPTIONS_COLUMNS)
    for (person, image), captions in sorted(merged.captions.items(), key=lambda item: item[0][::-1]):
        table.writerows([image, caption, merged.language, NATIVE, person] for caption in captions)
    header = f"{','.join(CAPTIONS_COLUMNS)}\r\n".encode()
    with about(f"--out {out}"):
        if out.is_file() and not out.read_bytes().startswith(header):  # somebody's own table would be lost
            raise SettingsError(f"--out {out} is not a table that this command wrote: name another file")
        left_out = out.with_suffix(".left-out.csv")
        write_bytes(left_out, sheet_text(LEFT_OUT_COLUMNS, merged.left_out).encode())
        write_bytes(out, text.getvalue().encode())
    return left_out


def person_rows(merged: Merged) -> list[dict[str, object]]:
    """Return progress and doubts of each person as rows of a table."""
    said = [(person, text) for (person, _), captions in merged.captions.items() for text in captions]
    near, foreign = _doubts(merged.language, [text for _, text in said])
    marks = Counter((person, mark) for (person, _), mark in merged.marks.items())
    agreed = agreement(merged)
    rows = list[dict[str, object]]()
    for person, dealt in merged.dealt.items():
        own = [place for place, (who, _) in enumerate(said) if who == person]
        chrf = [score for (who, _), score in agreed.items() if who == person]
        row: dict[str, object] = {
            "person": person,
            "done": f"{sum(who == person for who, _ in merged.marks):,} of {dealt:,}",
            "captions": len(own),
            **{mark: marks[person, mark] for mark in (CANNOT_SAY, NOT_SHOWN)},
            "like another": int(near[own].sum()),
            "other language": "-" if foreign is None else int(foreign[own].sum()),
            "chrF with others": f"{np.mean(chrf):.1f}" if chrf else "-",
        }
        rows.append(row)
    return rows


def _doubts(language: str, captions: Sequence[str]) -> tuple[Flags, Flags | None]:
    """Return which captions nearly equal an earlier one, and which are in another language; None if unknowable."""
    if not captions:
        return np.zeros(0, bool), None
    said = [[(caption, language) for caption in captions]]
    with TemporaryDirectory() as scratch:
        leaders = cluster_captions(lambda: iter(said), similarity=0.85, scratch=Path(scratch), function_words={})
    code = detectable_code(find_language(language).pack, "cascade")
    near: Flags = leaders != np.arange(len(captions))
    if code is None:
        return near, None
    drops = wrong_language(language_identifier(code)(captions), captions)
    return near, np.array([drop is not None for drop in drops])


def agreement(merged: Merged, *, shift: int = 0) -> dict[tuple[str, str], float]:
    """Return chrF (0 to 100) of each person's captions with those of others, by (person, image).

    With a shift, the others' captions are those of another picture: what chance gives.
    """
    by_image = defaultdict[str, dict[str, list[str]]](dict)
    for (person, image), captions in merged.captions.items():
        by_image[image][person] = captions
    shared = [(image, people) for image, people in by_image.items() if len(people) > 1]
    found = dict[tuple[str, str], float]()
    for place, (image, people) in enumerate(shared):
        _, there = shared[(place + shift) % len(shared)]
        for person, captions in people.items():
            others = [text for other, texts in there.items() if other != person for text in texts]
            scores = [max(sentence_chrf(caption, other) for other in others) for caption in captions]
            found[person, image] = float(np.mean(scores))
    return found


def agreement_line(merged: Merged) -> str:
    """Return a sentence on the agreement of people on the pictures that several of them captioned."""
    scores = agreement(merged)
    num_images = len({image for _, image in scores})
    if num_images < 2:
        return "agreement: fewer than two pictures have captions by two people"
    here, chance = (np.mean([*found.values()]) for found in (scores, agreement(merged, shift=1)))
    return f"agreement: chrF {here:.1f} between people on {num_images:,} pictures, {chance:.1f} on different ones"

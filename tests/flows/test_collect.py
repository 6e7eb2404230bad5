"""`vernaclip collect`: pictures go out as offline forms, and what people send back is merged, whatever they send."""

import csv
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from browser import WIDTH, open_browser
from PIL import Image

from data_catalog.report.forms import sheet_text
from data_catalog.sources.test_sets import TEST_SET_KINDS
from flows.collect import draw as drawing
from flows.collect.draw import ANSWER_COLUMNS, deal
from tests.flows.conftest import OwnFolder

Told = Callable[..., str]
Rows = list[dict[str, str]]
IN_SIGHT = "(({{top, bottom}}) => top >= 0 && bottom > top && bottom <= innerHeight)(at('{}').getBoundingClientRect())"
UKRAINIAN = "Двоє дітей біжать по траві за рудим собакою, і м’яч летить уже {} разів"


def table(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def data_of(form: Path) -> Any:
    found = re.search(r'<script type="application/json" id="form">(.*?)</script>', form.read_text("utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures of different looks, a copy of one, a broken one, a hidden one, and one in a subfolder."""
    own = OwnFolder(tmp_path_factory.mktemp("own"))
    for seed in range(19):
        own.save(f"{seed:02}.jpg", seed)
    own.save("00-again.jpg", 0)
    (own.photos / "broken.jpg").write_bytes(b"\xff\xd8\xffno")
    (own.photos / ".hidden.jpg").write_bytes(b"")
    (own.photos / "sub").mkdir()
    own.save("sub/a b.jpg", 50)
    return own.photos


def drawn(told: Told, photos: Path, out: Path, *words: str) -> str:
    return told(["collect", "draw", str(photos), "--language", "uk", "--out", str(out), "--random", *words])


@pytest.fixture
def forms(told: Told, photos: Path, tmp_path: Path) -> Path:
    """The forms of two people, with a fifth of the pictures for both."""
    drawn(told, photos, tmp_path / "forms", "--people", "2", "--overlap", "0.2")
    return tmp_path / "forms"


def answers(
    form: Path, name: str, captions: Sequence[str], *, mark: str = "", saved: str = "2026-12-02T10:00:00.000Z"
) -> Path:
    """The file that a form saves, with a caption for each of the first pictures, or a mark for the first."""
    data = data_of(form)
    rows = [
        {**dict.fromkeys(ANSWER_COLUMNS, ""), "collect_id": data["id"], "row_id": row["row_id"], "person": name}
        for row in data["rows"]
    ]
    for row in rows:
        row["saved"] = saved
    for row, caption in zip(rows, captions, strict=False):
        row["caption_1"] = caption
    rows[0]["mark"] = mark
    path = form.parent / f"{name}-{saved[:13]}.csv"
    path.write_text(sheet_text(ANSWER_COLUMNS, rows), "utf-8", newline="")
    return path


def merged(told: Told, forms: Path, *files: Path | str) -> tuple[str, Rows, Rows]:
    """What the command says, the captions, and those left out."""
    out = forms.parent / "captions.csv"
    said = told(["collect", "merge", *map(str, files), "--drawn", str(forms), "--out", str(out)])
    return said, table(out), table(forms.parent / "captions.left-out.csv")


def test_captions_typed_on_a_telephone_without_a_network_are_all_there(
    told: Told, photos: Path, tmp_path: Path
) -> None:
    drawn(told, photos, tmp_path / "forms")
    form = tmp_path / "forms" / "captions-1.html"
    typed = [UKRAINIAN.format(number) for number in range(20)]
    typed[3] = '=HYPERLINK("http://localhost", "<script>")'
    with open_browser(tmp_path / "profile") as page:
        page.open_on_telephone(form)
        assert page.ask("at('helping').open && at('forget').hidden"), "instructions come first"
        assert page.ask("at('help-title').getBoundingClientRect().top") > 0
        assert page.ask("document.documentElement.scrollWidth") == WIDTH
        page.ask("at('close').click()")
        for text in typed:
            assert page.ask("at('picture').decode().then(() => at('picture').naturalWidth)") == 256
            page.type("caption_1", text)
            page.ask("at('next').click()")
        assert page.ask(IN_SIGHT.format("done")), "after the last picture"
        page.type("person", "Оля / <b>")
    with open_browser(tmp_path / "profile") as page:
        page.open_on_telephone(form)
        assert not page.ask("at('helping').open")
        assert page.ask("at('count').textContent") == "20 of 20 done"
        assert page.ask("at('caption_1').value") == typed[-1]
        saved = page.save(tmp_path / "downloads")
        assert page.ask(IN_SIGHT.format("saved"))
    assert saved.name == "captions-1-Оля-b.csv"
    said, captions, left_out = merged(told, tmp_path / "forms", saved)
    assert re.search(r"Оля / <b> +20 of 20 +19 +0 +0 +\d+ +0", said)
    assert {row["caption"] for row in captions} == {*typed} - {typed[3]}
    assert {(row["lang"], row["origin"], row["person"]) for row in captions} == {("uk", "native", "Оля / <b>")}
    assert all((photos / row["image"]).is_file() for row in captions)
    assert [(row["caption"], row["reason"]) for row in left_out] == [(f"'{typed[3]}", "a spreadsheet would compute it")]


def test_a_form_that_a_browser_cannot_keep_says_so_wherever_it_is_scrolled_to(
    told: Told, photos: Path, tmp_path: Path
) -> None:
    drawn(told, photos, tmp_path / "forms")
    with open_browser(tmp_path / "profile") as page:
        page.open_on_telephone(tmp_path / "forms" / "captions-1.html")
        page.ask("at('close').click()")
        assert not page.ask(IN_SIGHT.format("storage"))
        page.ask("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }")
        page.type("caption_1", "Пес")
        page.ask("scrollTo(0, document.body.scrollHeight)")
        assert page.ask("scrollY") > 0
        assert page.ask(IN_SIGHT.format("storage"))
        assert page.ask("at('kept').textContent") == ""
        page.type("person", "Оля")
        assert "Пес" in page.save(tmp_path / "downloads").read_text("utf-8")


def test_a_form_is_dealt_with_the_overlap_and_holds_no_copy_and_no_other_file(
    told: Told, photos: Path, tmp_path: Path
) -> None:
    said = drawn(told, photos, tmp_path / "a", "--people", "4", "--overlap", "0.25", "--n", "30")
    assert "only 20 pictures can be used" in said
    assert "copy of another picture (1)" in said
    assert "(1)" in re.sub("copy of another picture .1.", "", said), "the broken file has its reason"
    sheet = table(tmp_path / "a" / "collect.csv")
    assert "sub/a b.jpg" in {row["image"] for row in sheet}
    shares = [json.loads(row["forms"]) for row in sheet]
    assert Counter(map(len, shares)) == {1: 15, 2: 5}
    assert {name: len(data_of(tmp_path / "a" / f"captions-{name}.html")["rows"]) for name in "1234"} == Counter(
        name for share in shares for name in share
    )
    page = (tmp_path / "a" / "captions-1.html").read_text("utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"https?://", page)
    assert "belongs to other forms" in told(
        ["collect", "draw", str(photos), "--language", "uk", "--out", str(tmp_path / "a"), "--random"], code=1
    )
    assert "no picture to caption" in told(
        ["collect", "draw", str(tmp_path / "a"), "--language", "uk", "--out", str(tmp_path / "b"), "--random"], code=1
    )


@pytest.mark.parametrize(("num_people", "overlap"), [(1, 0.5), (2, 1.0), (4, 0.1), (5, 0.4), (7, 0.0)])
def test_people_get_as_many_pictures_and_each_shares_with_each(num_people: int, overlap: float) -> None:
    dealt = deal(200, num_people, overlap)
    loads = Counter(person for people in dealt for person in people)
    assert max(loads.values()) - min(loads.values()) <= 1
    assert [len(people) for people in dealt] == sorted(map(len, dealt), reverse=True), "shared ones come first"
    shared = Counter(tuple(sorted(people)) for people in dealt if len(people) == 2)
    if num_people > 1:
        assert sum(shared.values()) == 200 * overlap
        assert not overlap or {*shared} == {*combinations(range(1, num_people + 1), 2)}


def test_more_pictures_than_a_file_may_hold_are_split_and_merged(
    told: Told, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "_FORM_BYTES", 150_000)
    forms = tmp_path / "forms"
    drawn(told, photos, forms)
    parts = sorted(forms.glob("captions-1.*.html"))
    assert len(parts) > 1
    assert all(part.stat().st_size < 200_000 for part in parts)
    texts = [f"Слова {number}" for number in range(30)]
    files = [answers(part, f"Оля{place}", texts) for place, part in enumerate(parts)]
    assert len(merged(told, forms, *files)[1]) == 20


def test_an_own_file_of_words_is_used_and_what_lacks_is_english(told: Told, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "words.toml").write_text('lang = "uk"\nheading = "Що <b>ви</b> бачите? @@DATA@@"\n', "utf-8")
    drawn(told, photos, tmp_path / "forms", "--words", str(tmp_path / "words.toml"))
    page = (tmp_path / "forms" / "captions-1.html").read_text("utf-8")
    assert "<h1>Що &lt;b&gt;ви&lt;/b&gt; бачите? @@DATA@@</h1>" in page
    assert "Save my captions" in page
    (tmp_path / "words.toml").write_text("lang = ", "utf-8")
    command = ["collect", "draw", str(photos), "--language", "uk", "--out", str(tmp_path), "--random"]
    assert "words.toml" in told([*command, "--words", str(tmp_path / "words.toml")], code=1)


def test_both_languages_of_the_form_have_the_same_words_with_the_same_gaps() -> None:
    english, italian = (
        tomllib.loads((Path(drawing.__file__).parent / "page" / f"{language}.toml").read_text("utf-8"))
        for language in ("en", "it")
    )
    assert {name: text.count("{}") for name, text in english.items()} == {
        name: text.count("{}") for name, text in italian.items()
    }


def test_pictures_are_spread_by_the_features_of_a_tower(told: Told, tmp_path: Path) -> None:
    own = OwnFolder(tmp_path)
    for number in range(8):  # seven of nearly one colour with a line, one of noise
        picture = Image.new("RGB", (96, 96), (200, 200, 200 + number))
        picture.paste((90, 90, 90), (0, 10 * number, 96, 10 * number + 3))
        (own.photo(1) if number == 7 else picture).save(own.photos / f"{number}.png")
    told(["collect", "draw", str(own.photos), "--language", "uk", "--out", str(tmp_path / "out"), "--n", "2"])
    assert "7.png" in {row["image"] for row in table(tmp_path / "out" / "collect.csv")}


def test_nothing_is_lost_and_nothing_is_counted_twice(told: Told, forms: Path) -> None:
    first = answers(forms / "captions-1.html", "Оля", ["Пес", "Кіт", "Кінь", ""], saved="2026-12-02T09")
    later = answers(forms / "captions-1.html", "Оля", ["Рудий пес", "Кіт", "", "Вовк"], saved="2026-12-02T11")
    again = forms / "again.csv"
    again.write_bytes(later.read_bytes())
    said, captions, left_out = merged(told, forms, later, again, first, first)
    assert sorted(row["caption"] for row in captions) == ["Вовк", "Кінь", "Кіт", "Рудий пес"]
    assert [(row["caption"], row["reason"]) for row in left_out] == [("Пес", "replaced by again.csv")]
    assert "Оля" in said
    assert re.findall("note: .*", said) == ["note: no answers yet from captions-2.html"]


def test_a_form_that_comes_back_under_two_names_counts_once(told: Told, forms: Path) -> None:
    form, texts = forms / "captions-1.html", ["", "Рудий пес біжить", "Кіт спить на вікні"]
    old = answers(form, "Оля", texts, mark="should not be shown", saved="2026-12-02T09")
    new = answers(form, "Ольга", [*texts, "Вовк"], mark="should not be shown", saved="2026-12-02T11")
    said, captions, left_out = merged(told, forms, new, old)
    assert sorted(row["caption"] for row in captions) == ["Вовк", "Кіт спить на вікні", "Рудий пес біжить"]
    assert {(row["person"], row["reason"]) for row in left_out} == {("Ольга", "Оля has it on the same form")}
    assert "note: Ольга has 3 answers of Оля on the same form, which count once: one person with two names?" in said
    assert "agreement: fewer than two pictures" in said
    assert ": 1 said that it should not be shown" in said


def test_a_cut_a_foreign_and_a_changed_file_are_named_and_their_good_rows_used(told: Told, forms: Path) -> None:
    whole = answers(forms / "captions-1.html", "Оля", [f"Пес номер {number}" for number in range(30)])
    lines = whole.read_bytes().splitlines(keepends=True)
    cut, short = forms / "cut.csv", forms / "short.csv"
    cut.write_bytes(b"".join(lines[:4]) + lines[4][:40])
    said, captions, _ = merged(told, forms, cut)
    assert len(captions) == 3
    assert "cut.csv" in said
    assert "3 rows before the damage are used" in said
    short.write_bytes(b"".join(lines[:4]))
    assert "short.csv: it has 3 of the 12 rows of its form: ask Оля" in merged(told, forms, short)[0]
    strange = forms / "strange.csv"
    strange.write_bytes(whole.read_bytes().replace(data_of(forms / "captions-1.html")["id"].encode(), b"c0-1"))
    said, captions, _ = merged(told, forms, strange, cut)
    assert "strange.csv: 12 rows are not of these forms" in said
    assert len(captions) == 3
    by_hand = forms / "by-hand.csv"
    by_hand.write_bytes(whole.read_bytes().replace("номер 1,".encode(), "номер сто,".encode()))
    said, captions, left_out = merged(told, forms, whole, by_hand)
    assert "by-hand.csv were saved at the same time and differ" in said
    assert len(captions) == 12
    assert [row["caption"] for row in left_out] == ["Пес номер 1"]
    command = ["collect", "merge", str(whole), str(forms / "no.csv"), "--drawn", str(forms), "--out", str(forms / "x")]
    assert "no.csv" in told(command, code=1)
    assert not (forms / "x").exists()
    (forms / "photo.csv").write_bytes(b"\xff\xd8\xff\0\0")
    said, captions, _ = merged(told, forms, forms / "photo.csv", whole)
    assert "photo.csv" in said
    assert len(captions) == 12


def test_what_excel_saves_and_hostile_captions_are_read(told: Told, forms: Path) -> None:
    nasty = ["+1+cmd|' /C calc'!A0", "<script>alert(1)</script>", "'Twas a dog", "!!!", "two\r\nlines; three"]
    nasty.append("\x1b[31mпес")
    whole = answers(forms / "captions-1.html", "=Оля", nasty)
    with whole.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    with (forms / "excel.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    said, captions, left_out = merged(told, forms, forms / "excel.csv")
    assert {row["caption"] for row in captions} == {nasty[1], nasty[2], "two lines; three", "\x1b[31mпес"}
    assert {row["person"] for row in captions} == {"Оля"}
    assert {row["reason"] for row in left_out} == {"a spreadsheet would compute it", "no words"}
    assert "\x1b" not in said


def test_a_picture_that_two_people_refuse_is_left_out_and_agreement_is_said(told: Told, forms: Path) -> None:
    texts = ["Рудий пес біжить по зеленій траві", "Двоє людей сидять на березі моря", "Кіт спить на вікні", "Поїзд їде"]
    texts += ["A dog runs over the green grass of a park"] * 2
    files = [
        answers(forms / f"captions-{number}.html", name, texts, mark="should not be shown")
        for number, name in enumerate(("Оля", "оля"), start=1)
    ]
    said, captions, left_out = merged(told, forms, *files)
    assert re.search(r"Оля +6 of 12 +5 +0 +1 +\d +2 ", said), "two in English"
    assert re.search(r"agreement: chrF 100.0 between people on 3 pictures, \d\d?\.\d on different ones", said)
    assert {row["reason"] for row in left_out} == {"2 people said: should not be shown"}
    assert len(left_out) == 2
    refused = {row["image"] for row in left_out}
    assert not refused & {row["image"] for row in captions}
    files[0] = answers(forms / "captions-1.html", "Оля", texts, mark="cannot say", saved="2026-12-03")
    said, captions, _ = merged(told, forms, *files)
    assert f"{refused.pop()}: 1 said that it should not be shown" in said


def test_a_test_set_is_told_as_a_recipe_has_it_and_no_other_table_is_replaced(
    told: Told, forms: Path, photos: Path
) -> None:
    sheet = answers(forms / "captions-1.html", "Оля", ["Пес на траві"])
    out = forms.parent / "test.csv"
    command = ["collect", "merge", str(sheet), "--drawn", str(forms), "--out", str(out)]
    said = told([*command, "--as-test"]).replace('"IMAGES"', json.dumps(str(photos)))
    (settings,) = tomllib.loads(said[said.index("[test_sets") :])["test_sets"].values()
    kind = TEST_SET_KINDS[settings.pop("kind")]
    config = kind.config_type(**settings | {"files": tuple(settings["files"])})
    kind.check(config)
    (image,) = kind.load(config).images
    assert image.captions == ("Пес на траві",)
    out.write_text("image,caption\n1.jpg,a dog\n")
    assert "is not a table that this command wrote" in told(command, code=1)
    assert out.read_text() == "image,caption\n1.jpg,a dog\n"


def test_a_recipe_that_cannot_be_aligned_has_no_value_and_is_not_built_first(told: Told, tmp_path: Path) -> None:
    said = told(["collect", "value", "scenes", "--root", str(tmp_path / "root")], code=1)
    assert "align needs a pretrained image tower" in said
    assert not (tmp_path / "root").exists()

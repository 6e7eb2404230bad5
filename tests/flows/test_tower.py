"""`vernaclip tower`: a student of several languages from files of pairs alone, and what it refuses before it begins."""

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vernaclip
from data_catalog.base.plain_text import cell_text
from data_catalog.rows.caption_keys import caption_key
from data_catalog.sample.grammar import write_pairs
from flows.recipe.recipe import load_recipe
from flows.sentences import sentence_pairs

SMALL = {"student": '"tiny"', "epochs": "1", "num_held_out": "6", "batch_size": "32", "vocab_size": "400"}
SMALL |= {"check_languages": "false", "teacher_license": '"mit"'}
SETTINGS = [word for name, value in SMALL.items() for word in ("--set", f"distil.{name}={value}")]


@pytest.fixture(scope="module")
def home(random_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, and pairs in two languages: twice as many in Italian, some of equal English sentences."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(random_clip(["a red circle", "two blue stars"]), folder / "model")
    for code, seed, count in (("it", 1, 160), ("de", 2, 70)):
        write_pairs(folder / f"en-{code}.tsv", seed=seed, num_pairs=count, lang=code)
    shared = [line.partition("\t")[0] for line in (folder / "en-de.tsv").read_text("utf-8").splitlines()[:30]]
    with (folder / "en-it.tsv").open("a", encoding="utf-8") as file:
        file.writelines(
            f"{source}\tuna stella rossa sopra un cerchio blu {place}\n" for place, source in enumerate(shared)
        )
    return folder


@pytest.fixture
def words(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A call of the command in that folder, but for its --out."""
    monkeypatch.chdir(home)
    return ["tower", "it", "de", "--like", "model", "--pairs", "en-{lang}.tsv", *SETTINGS]


@pytest.fixture(scope="module")
def tower(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of two languages, which also reads the third, that of its teacher."""
    folder = tmp_path_factory.mktemp("tower")
    settings = {f"distil.{name}": json.loads(value) for name, value in SMALL.items()}
    pairs = {code: [str(home / f"en-{code}.tsv")] for code in ("it", "de")}
    text = "".join(f"{code} = {json.dumps(files)}\n" for code, files in pairs.items())
    head = f'target_language = "it"\n[distil]\nteacher = "{home}/model"\n[distil.pairs]\n'
    (folder / "mine.toml").write_text(head + text, "utf-8")
    return vernaclip.distil(folder / "mine.toml", folder / "root", settings=settings).folder


def test_the_command_writes_a_recipe_and_one_model_that_reads_all_languages(
    home: Path, words: list[str], told: Any, tmp_path: Path
) -> None:
    out = tmp_path / "tower"
    printed = told([*words, "--out", str(out)])
    folder = Path(next(line for line in printed.splitlines() if line.startswith("Model: "))[7:])
    run = json.loads((folder / "run.json").read_text("utf-8"))
    lesson = run["settings"]["distil"]
    assert lesson["languages"] == ["en", "it", "de"]
    assert lesson["pairs"] == sum(lesson["pairs_by_language"].values())
    table = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line[:3] in ("it ", "de ", "en ")}
    assert {code: int(cells[0].replace(",", "")) for code, cells in table.items()} == lesson["pairs_by_language"]
    before = folder.joinpath("model.safetensors").stat().st_mtime_ns
    again = told([*words, "--out", str(out)])
    byhand = told(["distil", str(out / "tower.toml"), "--root", str(out), "--executor", "local", *SETTINGS])
    assert f"Model: {folder}" in again
    assert f"Model: {folder}" in byhand
    assert folder.joinpath("model.safetensors").stat().st_mtime_ns == before
    (tmp_path / "photos").mkdir()
    Image.radial_gradient("L").save(tmp_path / "photos" / "a.jpg")
    assert "a.jpg" in told(["search", "ein Kreis", "--images", str(tmp_path / "photos"), "--root", str(out)])
    byname = ["export-model", "tower", "--root", str(out), "--format", "open_clip", "--license", "mit"]
    told([*byname, "--out", str(tmp_path / "export")])
    exported = json.loads((tmp_path / "export" / "export.json").read_text())["model"]
    assert exported == json.loads((folder / "result.json").read_text())["key"]
    (line,) = (each for each in printed.splitlines() if "export-model" in each)
    told(shlex.split(line.replace("immich --as NAME --precision int8", "open_clip"))[1:])
    edited = (out / "tower.toml").read_text("utf-8").replace("16000", "9000")
    (out / "tower.toml").write_text(edited, "utf-8")
    assert "was edited" in told([*words, "--out", str(out)], code=1)
    assert (out / "tower.toml").read_text("utf-8") == edited


def test_no_language_learns_what_another_holds_out_or_leaves_out(home: Path, tower: Path, tmp_path: Path) -> None:
    (tmp_path / "left-out.txt").write_text(
        (home / "en-de.tsv").read_text("utf-8").splitlines()[3].split("\t")[1], "utf-8"
    )
    unwanted = (home / "en-de.tsv").read_text("utf-8").splitlines()[3].split("\t")[0]
    settings = {f"distil.{name}": json.loads(value) for name, value in SMALL.items()}
    settings |= {"distil.leave_out": [str(tmp_path / "left-out.txt")]}
    recipe = load_recipe(str(tower.parents[2].parent / "mine.toml"), root=tmp_path, overrides=settings)
    pairs = sentence_pairs(recipe, None)
    held_out = {caption_key(source) for each in pairs.lessons for source, _ in each.held_out}
    learned = {caption_key(source) for each in pairs.lessons for source, _ in each.training}
    assert len(held_out) > 6
    assert held_out.isdisjoint(learned)
    assert caption_key(unwanted) not in held_out | learned
    source = pairs.lessons[2]
    assert source.languages == ("en", "en")
    assert all(one == other for one, other in [*source.training, *source.held_out])
    assert pairs.left_out["left_out"] == 1


def test_the_card_has_a_row_for_each_language(tower: Path, told: Any, tmp_path: Path) -> None:
    words = ["export-model", "--model", str(tower), "--format", "open_clip", "--license", "mit"]
    told([*words, "--out", str(tmp_path / "export")])
    card = unescape((tmp_path / "export" / "README.md").read_text("utf-8"))
    best = json.loads((tower / "result.json").read_text())["best_epoch"]
    lines = map(json.loads, (tower / "metrics.jsonl").read_text().splitlines())
    measured = next(line for line in lines if line["epoch"] == best)
    for code, count in json.loads((tower / "run.json").read_text())["settings"]["distil"]["pairs_by_language"].items():
        assert f"| `{code}` | {count} | 6 | {measured[f'val_mrr@10_{code}']:.3f} |" in card
    assert "for the languages `it`, `de` and `en`" in card
    assert "language:\n- it\n- de\n- en\n" in card


def test_the_scoreboard_has_a_set_for_each_language_that_the_model_reads(
    tower: Path, told: Any, tmp_path: Path
) -> None:
    captions = {"it": "Un cane corre sulla spiaggia", "de": "Ein Hund rennt am Strand", "fr": "Un chien court"}
    lines: list[dict[str, Any]] = []
    for number in range(3):
        lines.append({"image/key": f"{number:016x}"})
        lines[-1] |= {code: {"caption": [f"{text} {number}"]} for code, text in captions.items()}
        Image.new("RGB", (40, 40), (90 * number, 9, 9)).save(tmp_path / f"{number:016x}.jpg")
    (tmp_path / "captions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    words = ["scoreboard", "--language", "it", "--model", str(tower), "--root", str(tmp_path / "root"), "--json"]
    words += ["--test-set", "many", "kind=crossmodal3600", f"files={tmp_path}/captions.jsonl", f"images={tmp_path}"]
    words += ["num_images=3"]
    out = json.loads(told([*words, 'languages=["it","de","fr"]', "--out", str(tmp_path / "out")]))
    sets = {each["name"]: each for each in out["sets"]}
    assert sorted(sets) == ["many de", "many it"]
    assert sets["many de"]["language"]["asked"] == "de"
    assert not any("stated to be in" in note for each in sets.values() for note in each["notes"])


def test_a_query_in_a_language_that_the_model_reads_is_not_translated(tower: Path, told: Any, tmp_path: Path) -> None:
    Image.radial_gradient("L").save(tmp_path / "a.jpg")
    search = ["search", "zwei Sterne", "--images", str(tmp_path), "--model", str(tower)]
    assert "from de to de: leave --from out" in told([*search, "--from", "de"], code=1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"de": "fr"}, "give the sentence pairs of fr, or leave it out"),
        ({"de": "it"}, "give each language once"),
        ({"en-{lang}.tsv": "en-it.tsv"}, "{lang} in the place of its code"),
        ({"it": "deu"}, "German has the code de here"),
        ({"it": "Deutsch"}, "ISO 639 code"),
        (
            {"en-{lang}.tsv": "swapped-{lang}.tsv", "distil.check_languages=false": "distil.seed=1"},
            "in another language",
        ),
        ({"model": "nobody/nothing"}, "it must name"),
        ({"en-{lang}.tsv": "few-{lang}.tsv"}, "distil.pairs.it: "),
    ],
    ids=str,
)
def test_what_cannot_be_learned_is_refused_with_a_sentence_and_nothing_is_written(
    home: Path, words: Sequence[str], told: Any, tmp_path: Path, changes: dict[str, str], expected: str
) -> None:
    for code, other in (("it", "de"), ("de", "it")):  # each file has the other language
        shutil.copy(home / f"en-{other}.tsv", home / f"swapped-{code}.tsv")
        write_pairs(home / f"few-{code}.tsv", seed=3, num_pairs=12, lang=code)
    asked = [changes.get(word, word) for word in words]
    assert expected in cell_text(told([*asked, "--out", str(tmp_path / "tower")], code=1))
    assert not (tmp_path / "tower").exists()

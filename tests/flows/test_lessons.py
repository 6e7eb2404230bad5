"""A student of several languages, from files of pairs alone."""

import json
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vernaclip
from data_catalog.rows.caption_keys import caption_key
from data_catalog.sample.grammar import write_pairs
from flows.recipe.recipe import load_recipe
from flows.sentences import sentence_pairs

SMALL = {"student": '"tiny"', "epochs": "1", "num_held_out": "6", "batch_size": "32", "vocab_size": "400"}
SMALL |= {"check_languages": "false", "teacher_license": '"mit"'}


@pytest.fixture(scope="module")
def home(random_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, and pairs in two languages: twice as many in Italian, some of equal English sentences."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(random_clip(["a red circle", "two blue stars"]), folder / "model")
    for code, seed, count in (("it", 1, 160), ("de", 2, 70)):
        write_pairs(folder / f"en-{code}.tsv", seed=seed, num_pairs=count)
    german = folder / "en-de.tsv"  # stands for German: other texts than the Italian ones
    german.write_text(german.read_text("utf-8").replace("\t", "\tdas ist "), "utf-8")
    shared = [line.partition("\t")[0] for line in (folder / "en-de.tsv").read_text("utf-8").splitlines()[:30]]
    with (folder / "en-it.tsv").open("a", encoding="utf-8") as file:
        file.writelines(
            f"{source}\tuna stella rossa sopra un cerchio blu {place}\n" for place, source in enumerate(shared)
        )
    return folder


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


def test_too_few_pairs_of_one_language_are_refused_by_its_name(home: Path, tower: Path, told: Any) -> None:
    write_pairs(home / "few.tsv", seed=3, num_pairs=12)
    recipe = tower.parents[2].parent / "few.toml"
    text = recipe.with_name("mine.toml").read_text("utf-8")
    recipe.write_text(text.replace("en-it.tsv", "few.tsv"), "utf-8")
    settings = [word for name, value in SMALL.items() for word in ("--set", f"distil.{name}={value}")]
    assert "distil.pairs.it: " in told(["distil", str(recipe), "--root", str(home / "root"), *settings], code=1)


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

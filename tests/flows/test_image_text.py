"""Captions are judged by models that look at the image: scores, drops, refusals, and that a killed build goes on."""

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from data_catalog.base.errors import InputError, PipelineError
from data_catalog.catalog.diff import diff_snapshots
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.manifest import current_snapshot
from data_catalog.catalog.query import query
from data_catalog.disk.files import sha256_of, write_json
from data_catalog.disk.records import remove_folder_record
from data_catalog.report.page import write_report
from data_catalog.rows.schema import CAPTIONS, IMAGE_TEXT, PAIRS
from flows.build.execution import LocalExecutor
from flows.build.steps import step_versions
from flows.datasets import build_dataset
from flows.models import align_model
from flows.recipe.recipe import load_recipe
from training.data import features
from training.exports.model_export import ModelExportConfig, export_model
from training.scores import image_text

# Colours in English and Italian.
COLOURS = {
    "red": ("rosso", (220, 30, 30)),
    "green": ("verde", (30, 160, 60)),
    "blue": ("blu", (30, 60, 220)),
    "yellow": ("giallo", (250, 220, 20)),
    "black": ("nero", (15, 15, 15)),
    "purple": ("viola", (140, 40, 170)),
}
PLACES = {"left": "sinistra", "middle": "centro", "right": "destra"}
WORDS = f"un quadrato a square at the in {' '.join((*COLOURS, *(it for it, _ in COLOURS.values())))} " + " ".join(
    (*PLACES, *PLACES.values())
)
# A sample has an English caption and its Italian translation.
Row = tuple[str, str, str]
SETTINGS = """
clean.language_check = false
check.language_check = false
repeats.common_captions = false
duplicates.near_images = false
duplicates.split_guard = false
split.val = 0
split.test = 0
"""


def kinds() -> list[tuple[str, str]]:
    return [(colour, place) for colour in COLOURS for place in PLACES]


def english(colour: str, place: str) -> str:
    return f"a {colour} square at the {place}"


def italian(colour: str, place: str) -> str:
    return f"un quadrato {COLOURS[colour][0]} a {PLACES[place]}"


def square(colour: str, place: str, rng: random.Random) -> Image.Image:
    """A large square of the colour, and a grey bar at the place; no two are equal."""
    picture = Image.new("RGB", (72, 72), tuple(part + rng.randint(-9, 9) for part in COLOURS[colour][1]))
    x, y = 4 + 22 * list(PLACES).index(place) + rng.randint(-2, 2), rng.randint(2, 40)
    ImageDraw.Draw(picture).rectangle((x, y, x + 16, y + 28), fill=(128, 128, 128))
    return picture


class Squares:
    """A root with three datasets: the models of two judge the captions of the third."""

    def __init__(self, own: Any, towers: str) -> None:
        self.own, self.towers = own, towers

    def rows(self, name: str, count: int) -> list[Row]:
        rng, rows = random.Random(name), []
        for number in range(count):
            kind = kinds()[number % len(kinds())]
            self.own.save(f"{name}-{number}.png", square(*kind, rng))
            rows.append((f"{name}-{number}.png", english(*kind), italian(*kind)))
        return rows

    def toml(self, name: str, rows: Sequence[Row], *, lang: str = "it") -> str:
        made = {"origin": "human_translation", "translator": "Anna B.", "source_lang": "en"}
        if lang == "it":
            columns, more = [(path, it, en) for path, en, it in rows], made
            source = self.own.source(name, "path caption source_caption", columns, lang="it", **more)
        else:
            source = self.own.source(name, "path caption", [row[:2] for row in rows], lang="en")
        return f'target_language = "{lang}"\n{SETTINGS}{self.towers}{source}'

    def build(self, name: str = "own", *settings: str, rows: Sequence[Row] = (), **more: Any) -> Any:
        return self.own.build(self.toml("squares", rows or self.planted), *settings, name=name, **more)

    def scores(self, dataset: str = "own") -> list[dict[str, Any]]:
        sql = """
            SELECT path, source_caption, caption, image_text_score, image_text_score_source, image_text_drop,
                   step, drop_reason, detail
        """
        return list(self.own.rows(f"{sql} FROM captions WHERE dataset = '{dataset}' ORDER BY caption_id"))

    @property
    def judged(self) -> tuple[str, str]:
        """Settings that name both models by their datasets."""
        return "image_text.model=insegnante", "image_text.source_model=teacher"


@pytest.fixture(scope="module")
def squares(own_folder: Any, small_bert: Any, timm_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Squares:
    """Both models, aligned on 90 squares each, and 54 other squares, of which six have a planted fault of each kind."""
    own = own_folder(tmp_path_factory.mktemp("squares"))
    towers = {"image_tower": "test_efficientnet", "image_weights": str(timm_weights), "image_size": 64, "embed_dim": 24}
    towers |= {"text_encoder": str(small_bert(WORDS)), "context_length": 24, "num_threads": 1}
    found = Squares(own, "".join(f"train.{name} = {json.dumps(value)}\n" for name, value in towers.items()))
    for name, lang in (("insegnante", "it"), ("teacher", "en")):
        toml = found.toml(name, found.rows(name, 90), lang=lang)
        own.build(toml, name=name)
        align_model(own.recipe(toml, "align.epochs=60", "align.batch_size=30", name=name), own.root)
    found.planted = []
    for number, (path, en, it) in enumerate(found.rows("own", 54)):
        colour, place = kinds()[number % len(kinds())]
        other = list(COLOURS)[(list(COLOURS).index(colour) + 2) % len(COLOURS)]
        wrong = (english(other, place), italian(other, place))
        faulty = {0: (path, *wrong), 1: (path, en, wrong[1])}.get(number % 9, (path, en, it))
        found.planted.append(faulty)
    return found


@pytest.fixture(scope="module")
def scored(squares: Squares) -> Any:
    """The dataset `scored`: the planted squares, judged without thresholds."""
    return squares.build("scored", *squares.judged)


def number_of(row: Mapping[str, Any]) -> int:
    return int(row["path"].split("-")[1].split(".")[0])


def test_planted_faults_are_found_and_told(squares: Squares) -> None:
    report = squares.build("own", *squares.judged, "image_text.max_drop=1.3", "image_text.min_score=0.6")
    rows = {number_of(row): row for row in squares.scores()}
    wrong, lost = ({number for number in rows if number % 9 == kind} for kind in (0, 1))
    dropped = {number: row["drop_reason"] for number, row in rows.items() if row["step"] == "fit"}
    assert {number for number in lost if dropped.get(number) == "translation_lost_the_image"} == lost
    assert {number for number in wrong if dropped.get(number) == "caption_does_not_fit"} == wrong
    assert len(dropped.keys() - wrong - lost) <= 7, "of 42 good captions, few are dropped"  # 4 or 5 by processor
    for row in rows.values():
        score, source, drop = (row[name] for name in IMAGE_TEXT)
        assert drop == pytest.approx(source - score, abs=1e-5)
        if row["drop_reason"] == "caption_does_not_fit":
            assert (row["detail"], score < 0.6) == (f"{score:.2f}", True)
        if row["drop_reason"] == "translation_lost_the_image":
            assert row["detail"] == f"{drop:.2f}: {source:.2f} before translation, {score:.2f} after"
    told = {row["step"]: (row["read"], row["kept"], row["dropped"]) for row in report.funnel}
    assert told["fit"] == (54, 54 - len(dropped), len(dropped))
    assert list(told)[-4:] == ["fetch", "normalise", "fit", "deduplicate"]
    pairs = squares.own.rows("SELECT captions, image_text_scores FROM pairs WHERE dataset = 'own'")
    kept = {row["caption"]: row["image_text_score"] for row in rows.values() if row["step"] is None}
    assert len(pairs) == 54 - len(dropped)
    assert {row["image_text_scores"][0] for row in pairs} >= set(kept.values())
    other = squares.own.rows("SELECT DISTINCT image_text_score AS score FROM captions WHERE dataset = 'teacher'")
    assert other == [{"score": None}], "datasets without scores are in the same views"


def test_thresholds_off_drop_nothing_and_without_the_section_nothing_is_different(
    squares: Squares, scored: Any
) -> None:
    plain = squares.build("plain")
    assert {row["step"] for row in squares.scores("scored")} == {None}
    assert scored.snapshot.manifest["settings"]["image_text"] == {"min_score": None, "max_drop": None}
    manifest = plain.snapshot.manifest
    for built, says in ((scored, False), (plain, True)):
        text = (built.snapshot.folder / "README.md").read_text("utf-8")
        assert ("no model compared them" in text) == says
    assert "image_text" not in manifest["settings"]
    assert not {"fit", "measure-fit"} & {entry["step"] for entry in manifest["steps"]}
    assert pq.read_schema(plain.snapshot.files("captions")[0]).equals(CAPTIONS)
    assert pq.read_schema(plain.snapshot.files("pairs")[0]).equals(PAIRS)
    recipe = squares.own.recipe(squares.toml("squares", squares.planted), name="plain")
    assert not {"fit", "measure-fit"} & step_versions(recipe).keys(), "its key is that of before these steps"
    [change] = diff_snapshots(plain.snapshot, scored.snapshot, num_examples=1)["captions"]["changes"]
    assert (change["change"], change["rows"]) == (", ".join(IMAGE_TEXT), 54)


def tree(root: Path, dataset: str) -> dict[str, str]:
    folder = root / "datasets" / dataset
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in folder.glob("*/*/*.parquet")}


KILLED = """
import os, signal, sys
from training.data import features
from training.scores import image_text
from flows.cli import main

features.PORTION = image_text.BATCH_SIZE = 8
write, left = features._write_named, iter(range(3))

def write_or_die(*args):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*args)

features._write_named = write_or_die
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_judgement_goes_on_and_neither_kill_nor_shards_change_a_score(
    squares: Squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "PORTION", 8)
    monkeypatch.setattr(image_text, "BATCH_SIZE", 8)
    toml = squares.toml("squares", squares.planted)
    settings = (*squares.judged, "build.shard_size=20", "image_text.max_drop=1.3")
    roots = {name: tmp_path / name for name in ("whole", "killed", "few shards")}
    for root in roots.values():  # with the models, and without features
        for part in ("models", "datasets/teacher", "datasets/insegnante"):
            shutil.copytree(squares.own.root / part, root / part)
    recipe = squares.own.recipe(toml, name="squared")
    words = ["build", str(squares.own.folder / "squared.toml"), "--root", str(roots["killed"]), "--executor", "local"]
    words += [part for setting in settings for part in ("--set", setting)]
    died = subprocess.run([sys.executable, "-c", KILLED, *words], check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len(list(roots["killed"].glob("kept-features/*/features-*.parquet"))) == 3
    assert current_snapshot(roots["killed"], "squared") is None
    scores = {}
    for name, root in roots.items():
        more = ("build.shard_size=1000",) if name == "few shards" else ()
        recipe = load_recipe(recipe.reference, root=root, overrides=[*settings, *more])
        with LocalExecutor() as executor:
            build_dataset(recipe, root=root, executor=executor)
        found = query(root, f"SELECT {', '.join(IMAGE_TEXT)} FROM captions WHERE dataset = 'squared' ORDER BY path")
        scores[name] = found.to_pylist()
    assert tree(roots["whole"], "squared") == tree(roots["killed"], "squared") != {}
    assert scores["whole"] == scores["few shards"]
    assert len(tree(roots["whole"], "squared")) > len(tree(roots["few shards"], "squared"))


def test_a_model_that_was_trained_on_the_rows_is_refused(squares: Squares, tmp_path: Path) -> None:
    rows = squares.rows("teacher", 90)  # the same pictures
    with pytest.raises(InputError, match=r"source_model: .*teacher/.* images of this dataset.*trained on other images"):
        squares.build("teacher", *squares.judged, rows=rows)
    root, export = squares.own.root, tmp_path / "models" / "some" / "export"  # as model folders lie
    teacher, older = next((root / "models" / "teacher").glob("*/")), root / "models" / "own" / "0123456789ab"
    config = ModelExportConfig(formats=("open_clip",), name="it", replace=True)
    export_model(teacher, config, export, seen=None, root=root)
    with pytest.raises(InputError, match=r"model: .*export was trained on images of this dataset"):
        squares.build("teacher", f"image_text.model={export}", rows=rows)
    shutil.copytree(teacher, older)
    remove_folder_record(older)
    run = json.loads((older / "run.json").read_text())
    write_json(older / "run.json", {**run, "learned": ["0" * 64]})
    export_model(older, config, export, seen=None, root=root)
    for judge in (older, export):
        with pytest.raises(InputError, match="was trained on images of this dataset"):
            squares.build("own", f"image_text.model={judge}")
    shutil.rmtree(older)
    with pytest.raises(InputError, match=r"source_model: teacher was trained on 1 images of this dataset"):
        squares.build("overlap", *squares.judged, rows=[*squares.planted, rows[0]])


def test_what_cannot_judge_is_refused_before_work_starts(squares: Squares) -> None:
    for settings, told in (
        (["image_text.min_score=1"], "min_score needs image_text.model"),
        ([f"image_text.model={squares.own.photos}"], "is neither a model folder nor"),
    ):
        with pytest.raises(PipelineError, match=told):
            squares.build("refused", *settings)
    assert not (squares.own.root / "work" / "refused").is_dir()


def test_the_report_shows_worst_and_best_and_no_caption_is_markup(squares: Squares) -> None:
    path, en, _ = squares.planted[2]
    rows = [*squares.planted[:2], (path, en, "<script>alert(1)</script> un quadrato <b>rosso"), *squares.planted[3:]]
    settings = (*squares.judged, "clean.strip_markup=false", "clean.boilerplate=false")
    page = write_report(squares.own.root, squares.build("hostile", *settings, rows=rows).snapshot).read_text("utf-8")
    section = page.partition('<section id="fit">')[2].partition("</section>")[0]
    assert section.count("<img src=") == 18, "six at each end, and six that translation lost"
    assert [title in section for title in ("Worst", "Best", "Lost by translation")] == [True] * 3
    assert ("<script" in page, "<b>rosso" in page) == (False, False)


def test_dry_runs_know_the_thresholds(squares: Squares, told: Callable[..., str]) -> None:
    squares.own.recipe(squares.toml("squares", squares.planted), *squares.judged, "image_text.max_drop=1.5")
    file = str(squares.own.folder / "own.toml")
    words = ["build", file, "--root", str(squares.own.root), "--dry-run", "--set", "image_text.model=teacher"]
    said = told([*words, "--set", "image_text.max_drop=1"])
    assert "A dry run fetches no images, so it does not judge captions by image_text.max_drop." in said
    assert "A build would refuse" not in said
    assert "A build would refuse the recipe: image_text.model" in told([*words, "--set", "image_text.model=/nowhere"])


def test_a_take_down_leaves_lists_of_equal_length(
    squares: Squares, scored: Any, tmp_path: Path, told: Callable[..., str]
) -> None:
    root = tmp_path / "root"
    for part in ("datasets/scored", "kept-features"):
        shutil.copytree(squares.own.root / part, root / part)
    rebuild(root)
    told(["forget", "--sample", "squares:own-3.png", "--root", str(root)])
    assert not list((root / "kept-features").glob("*")), "features of its images are gone"
    found = query(root, "SELECT len(captions) AS n, len(image_text_scores) AS m FROM pairs").to_pylist()
    assert found == [{"n": 1, "m": 1}] * 53

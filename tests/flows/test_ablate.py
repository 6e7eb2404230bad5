"""`vernaclip ablate`: what it scores on, what it refuses, what it says, and that a killed one goes on."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.catalog.manifest import Snapshot, require_snapshot
from data_catalog.report.ablations import AblationTable, ablations_of, write_ablation_record
from data_catalog.report.page import write_report
from flows.ablation import variants_of
from flows.options import AblationConfig
from flows.recipe.recipe import Recipe, load_recipe
from flows.recipe.settings import OPTIONS, checked
from flows.recipe.toggles import switches, toggle_of
from training.config import TrainConfig
from training.data.pairs import pair_files
from training.scores.ablation import (
    CAPTIONS,
    METRICS,
    SEEN,
    Ablation,
    Filter,
    SeedNoise,
    default_steps,
    gallery_of,
    write_ablation,
)
from training.scores.evaluation import caption_modes
from training.scores.rows import Board, ModelFacts, ScoreRow, SetFacts

Row = tuple[str, str, list[str]]


def snapshot_of(folder: Path, name: str, **splits: Sequence[Row]) -> Snapshot:
    """A snapshot of rows of `sample_id`, `sha256` and captions by split."""
    entries = []
    (folder / name).mkdir()
    for split, rows in splits.items():
        columns = zip(("sample_id", "sha256", "captions"), zip(*rows, strict=True), strict=True)
        table = {key: list(values) for key, values in columns}
        table["origins"] = [["native"] * len(captions) for captions in table["captions"]]
        pq.write_table(pa.table(table), folder / name / f"{split}.parquet")
        entries.append({"path": f"{split}.parquet", "split": split})
    return Snapshot(dataset=name, snapshot=name, folder=folder / name, manifest={"files": {"pairs": entries}})


def asked(variants: Sequence[Snapshot], *, split: str = "test", refit: bool = False) -> tuple[list[str], list[str]]:
    """The images that are scored, and the captions that are queries."""
    found = gallery_of([pair_files(each) for each in variants], split, refit=refit)
    owners, seen = np.array(found.owners), found.guards["variants"].seen
    is_new = np.array([place not in seen for place in range(len(found.images))])
    queries = caption_modes(found, owners, is_new[owners])[CAPTIONS]
    images = [name for name, is_scored in zip(found.images, is_new, strict=True) if is_scored]
    return images, [text for text, is_query in zip(found.captions, queries, strict=True) if is_query]


def test_images_that_any_variant_is_trained_on_are_no_queries(tmp_path: Path) -> None:
    test = [("a", "1", ["una stella", "Un cuore!"]), ("b", "2", ["una luna"]), ("c", "3", ["un cuore", "tre cerchi"])]
    base = snapshot_of(tmp_path, "base", train=[("x", "9", ["un quadrato"])], test=[*test, ("d", "4", ["un anello"])])
    # A heart is in two of them.
    assert asked([base]) == (["a", "b", "c", "d"], ["una stella", "una luna", "tre cerchi", "un anello"])
    by_id = snapshot_of(tmp_path, "by-id", train=[("b", "77", ["altro"])])
    by_bytes = snapshot_of(tmp_path, "by-bytes", train=[("y", "3", ["altro"])])
    # Now it is in one.
    assert asked([base, by_id, by_bytes]) == (["a", "d"], ["una stella", "Un cuore!", "un anello"])
    by_val = snapshot_of(tmp_path, "by-val", train=[("z", "8", ["."])], val=[("a", "1", ["."])])
    assert asked([base, by_val])[0] == ["a", "b", "c", "d"]
    assert asked([base, by_val], refit=True)[0] == ["b", "c", "d"]
    with pytest.raises(InputError, match=r"on the val split, on which align\.refit trains"):
        asked([by_val], split="val", refit=True)


def test_there_must_be_something_to_score_on(tmp_path: Path) -> None:
    test = [("a", "1", ["una stella"]), ("b", "2", ["una luna"])]
    base = pair_files(snapshot_of(tmp_path, "base", train=[("x", "9", ["un quadrato"])], test=test))
    other = pair_files(snapshot_of(tmp_path, "other", train=[("a", "5", ["altro"])]))
    for files, split, told in (
        ([base], "val", r"the val split has 0 images .*split\.val higher"),
        ([base, other], "test", "the test split has 1 images that no variant is trained on"),
    ):
        with pytest.raises(InputError, match=told):
            gallery_of(files, split)


def test_steps_are_those_of_the_epochs_unless_they_are_given() -> None:
    assert default_steps(TrainConfig(epochs=3, frozen_epochs=2, batch_size=128), 1000) == 5 * 7
    assert default_steps(TrainConfig(epochs=3, batch_size=128), 100) == 3
    assert default_steps(TrainConfig(steps=7), 1000) == 7


def found_of(snapshot: Snapshot) -> Ablation:
    """What an ablation of one filter may find."""
    same = {"test_set": "test", "captions": CAPTIONS, "gallery": 300, "queries": 900, "left_out": 0}
    rows = [
        ScoreRow(**same, metric=metric, model=model, value=value, low=0.2, high=0.4, chance=0.01)
        for model, value in (("with", 0.34), ("without", 0.26))
        for metric in METRICS
    ]
    difference = {"model": "with", "minus": "without", "value": 0.08, "low": 0.05, "high": 0.11, "chance": 0.0}
    rows += [ScoreRow(**same, metric=metric, **difference) for metric in METRICS]
    counts = {"with": {"images": 1900, "captions": 5300}, "without": {"images": 2100, "captions": 5700}}
    models = tuple(ModelFacts(name=name, origin="models/a", counts=sizes) for name, sizes in counts.items())
    facts = SetFacts(name="test", task="retrieval", num_images=300, num_texts=900, left_out={SEEN: 2})
    compared = Filter(
        label="clean.language_check | <b>",
        overrides=("clean.language_check=false",),
        with_it="with",
        without="without",
        p_value=0.0002,
        verdict="helps",
    )
    return Ablation(
        key="0123456789ab",
        dataset=snapshot.dataset,
        snapshot=snapshot.snapshot,
        steps=200,
        batch_size=64,
        seeds=(0, 1, 2),
        noise=dict.fromkeys(METRICS, SeedNoise(variance=0.0001, degrees=4)),
        filters=[compared],
        board=Board(rows=tuple(rows), models=models, sets=(facts,)),
    )


def test_report_and_exports_show_the_ablation_of_their_snapshot(copied: Path, told: Any) -> None:
    snapshot = require_snapshot(copied, "scenes")
    export = ["export", "scenes", "--root", str(copied), "--format", "urls"]
    told(export)
    card, title = copied / "exports" / "scenes" / "urls" / "README.md", "## Ablation of the filters"
    assert title not in card.read_text()
    write_ablation(found_of(snapshot), copied / "ablations" / "0123456789ab")
    other = AblationTable(key="other", columns=["filter"], rows=[["of another snapshot"]], notes=[])
    write_ablation_record(copied / "ablations" / "other", {"dataset": "scenes", "snapshot": "0" * 12}, other)
    (found,) = ablations_of(snapshot)
    row, notes = " | ".join(found.rows[0]), " ".join(found.notes)
    assert row.startswith(
        "clean.language_check | <b> | 1,900 (-200) | 5,300 (-400) | 0.340 | 0.260 | +0.080 (+0.050 to"
    )
    assert row.endswith("| < 0.001 | helps")
    assert "300 images of the test split, without 2 that a variant was trained on, with 900 captions" in notes
    assert "4 degrees of freedom" in notes
    told(export)
    text = card.read_text()
    assert (text.count(title), "&#124; &#60;b&#62;" in text, "of another snapshot" in text) == (1, True, False)
    page = write_report(copied, snapshot).read_text()
    assert "Which filters help" in page
    assert "&lt;b&gt;" in page
    record = copied / "ablations" / "0123456789ab" / "ablation.json"
    record.write_text(record.read_text().replace('"num_images": 300', '"num_images": 900'))
    with pytest.raises(DamagedError, match=r"ablation\.json is damaged .* run `vernaclip ablate` again"):
        ablations_of(snapshot)


def test_the_command_line_lists_and_refuses(tmp_path: Path, told: Any) -> None:
    command = ["ablate", "scenes", "--root", str(tmp_path)]
    lines = told([*command, "--list", "--set", "repeats.near_captions=false"]).splitlines()[2:]
    listed = dict(line.split() for line in lines)
    assert (listed["check.proper_noun_check"], listed["repeats.near_captions"]) == ("on", "off")
    for words, said in (
        (["--align", "--steps", "1"], "--align has align.epochs instead"),
        (["--toggle", "check.max_proper_noun_share=7.0"], "check.max_proper_noun_share must be"),
        ([], "--list"),
        (["--toggle", "check.proper_noun_check"], "twice"),
    ):
        more = [] if not words else ["--toggle", "proper_nouns"]
        assert said in told([*command, *more, *words], code=1)
    with pytest.raises(SettingsError, match="--seeds must be at least 1, got 0"):
        checked(AblationConfig(seeds=0), OPTIONS)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """The sample's, with one filter that it lacks."""
    return load_recipe("scenes", root=tmp_path, overrides=["repeats.common_captions=false"])


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("cleaning.proper_nouns", {"check.proper_noun_check": (True, False)}),  # as the checks are called
        ("near_images", {"duplicates.near_images": (True, False)}),
        ("common_captions", {"repeats.common_captions": (False, True)}),
        ("check.min_words=0", {"check.min_words": (2, 0)}),
        ("clean.boilerplate_rules=file_name", {"clean.boilerplate_rules": (..., ("file_name",))}),
        (
            "clean.language + check.language",
            dict.fromkeys(("clean.language_check", "check.language_check"), (True, False)),
        ),
    ],
)
def test_names_find_settings(recipe: Recipe, text: str, settings: dict[str, tuple[Any, Any]]) -> None:
    found = toggle_of(text, recipe).settings
    assert list(found) == list(settings)
    for path, (now, instead) in settings.items():
        assert found[path][1] == instead
        assert now is ... or found[path][0] == now


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cleaning.blub", "there is no filter 'cleaning.blub': use one of clean.fix_encoding, "),
        ("train.epochs", "there is no filter 'train.epochs'"),
        ("language", "use one, or switch all with clean.language_check+check.language_check"),
        ("check.min_words", "is not an on/off setting: give the other value, as in --toggle check.min_words=VALUE"),
        ("check.min_words=2", "changes nothing: in the recipe, check.min_words is 2 already"),
        ("check.min_words=many", "check.min_words must be a whole number, got 'many'"),
        ("clean.boilerplate+clean.boilerplate", "clean.boilerplate is named twice"),
        ("duplicates.split_guard", "cannot be switched: it keeps images of the test split out of training"),
        ("near_captions+common_captions", "one filter is on and another is off"),
    ],
)
def test_what_cannot_be_switched_is_said(recipe: Recipe, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        toggle_of(text, recipe)


def test_every_switch_can_be_switched_and_switches_nothing_else(recipe: Recipe, tmp_path: Path) -> None:
    found = switches(recipe)
    assert found["check.proper_noun_check"] is True
    assert found["repeats.common_captions"] is False
    assert "duplicates.split_guard" not in found
    given = ["repeats.common_captions=false", "name=mine"]
    variants = variants_of("scenes", root=tmp_path, overrides=given, toggles=list(found))
    assert len({variant.recipe.name for variant in variants}) == len(found) + 1
    assert variants[0].recipe.name == "mine-ablation"
    for path, variant in zip(found, variants[1:], strict=True):
        assert switches(variant.recipe) == {**found, path: not found[path]}
        assert variant.recipe.train == recipe.train


def test_names_of_datasets_are_names_of_folders_and_tell_what_is_added(recipe: Recipe) -> None:
    every = "+".join(path for path, is_on in switches(recipe).items() if is_on)
    texts = ["repeats.min_similarity=0.5", "repeats.min_similarity=0.55", every, "common_captions"]
    toggles = [toggle_of(text, recipe) for text in texts]
    slugs = [toggle.slug for toggle in toggles]
    assert len(set(slugs)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", slug) for slug in slugs), slugs
    assert (slugs[3], [toggle.adds for toggle in toggles]) == ("with-repeats-common_captions", [False] * 3 + [True])


def times_of(root: Path) -> dict[Path, int]:
    """When each file of models was written."""
    files = list(root.glob("models/*/*/*"))
    return {path: path.stat().st_mtime_ns for path in files if path.name not in ("current.json", "last")}


@pytest.mark.slow
def test_a_whole_ablation_killed_in_the_middle_ends_as_one_that_was_not(
    tmp_path: Path, english_overrides: list[str], small_model: str, child: Any, told: Any
) -> None:
    (tmp_path / "small.json").write_text(small_model)
    settings = [
        *english_overrides,
        *(f"train.model={tmp_path}/small.json", "train.batch_size=8", "train.vocab_size=300", "train.num_threads=1"),
        *("train.checkpoint_every_steps=2", "split.test=0.3", "train.augment=[]", "repeats.near_captions=false"),
    ]
    toggles = ["--toggle", "clean.language+check.language", "--toggle", "near_captions", "--steps", "5", "--seeds", "2"]
    more = [part for setting in settings for part in ("--set", setting)]
    command = ["ablate", "scenes", "--executor", "local", *toggles, *more]
    assert "6 models, 5 steps each with 8" in told([*command, "--dry-run", "--root", str(tmp_path / "dry")])
    assert not (tmp_path / "dry" / "datasets").exists()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert "repeats.near_captions" in told([*command, "--root", str(whole)])
    for other, num_unbuilt in (([], 0), (["--set", "split.test=0.2"], 3)):
        planned = told([*command, *other, "--dry-run", "--root", str(whole)])
        assert planned.count("not built yet") == num_unbuilt, "sizes are those of these settings"
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with child([*command, "--root", str(killed)], **streams) as process:
        while len(list(killed.glob("models/*/*/result.json"))) < 3:  # in the middle of the fourth of six
            assert process.poll() is None, "the child ended before it could be killed"
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    finished = {path.parent for path in killed.glob("models/*/*/result.json")}
    before = {path: time_ns for path, time_ns in times_of(killed).items() if path.parent in finished}
    told([*command, "--root", str(killed)])
    assert before.items() <= times_of(killed).items(), "nothing that was finished was trained again"
    records = [next(root.glob("ablations/*/ablation.json")).read_bytes() for root in (whole, killed)]
    assert records[0] == records[1]
    record = json.loads(records[0])
    models = {model["name"]: model for model in record["models"]}
    assert [len(model["origin"].split(", ")) for model in models.values()] == [2, 2, 2]
    whole_recipe, *others = models
    removed, added = record["filters"]
    assert [removed["with_it"], added["without"]] == [whole_recipe] * 2, "it lacks the second"
    assert [removed["without"], added["with_it"]] == others
    assert models[removed["without"]]["counts"]["images"] > models[whole_recipe]["counts"]["images"]
    assert models[added["with_it"]]["counts"]["captions"] < models[whole_recipe]["counts"]["captions"]
    board = Board.read(next(whole.glob("ablations/*/ablation.json")))
    for each in (removed, added):
        delta = board.where(metric="text_to_image_MRR@10", minus=each["without"], model=each["with_it"]).rows[0]
        scores = [board.get(delta.metric, CAPTIONS, model=each[name]).value for name in ("with_it", "without")]
        assert delta.value == pytest.approx(scores[0] - scores[1])
    results = [whole / model / "result.json" for each in models.values() for model in each["origin"].split(", ")]
    assert [json.loads(path.read_text())["steps"] for path in results] == [5] * 6
    assert not list(whole.glob("work/fetch/*")), "what the variants kept for one another is gone"
    settled = times_of(whole)
    told([*command, "--root", str(whole)])
    assert times_of(whole) == settled

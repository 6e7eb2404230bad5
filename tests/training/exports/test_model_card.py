"""Model cards: what they say of data, scores and time, and that nothing in them does harm."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from data_catalog.base.errors import InputError
from data_catalog.exports.counts import PairCounts
from training.exports.model_card import (
    Publication,
    TrainingData,
    card_data,
    cost_section,
    model_card,
)
from training.exports.trained_folder import open_trained
from training.runs.attempts import Attempt
from training.scores.encoders import open_model_folder
from training.towers.trained_models import EFFORT_FILE, list_models

HOSTILE = "<script>alert(1)</script> [x](http://evil.example) | `a` \u202e --- \x85"


def seen(name: str = "scenes", license: str = "CC0-1.0", **more: Any) -> TrainingData:
    """Five images to train on, one of a kind of license each; one caption of four is translated."""
    train = PairCounts()
    train.images["photos", "train"] = 5
    train.captions["photos", "train"] = 4
    made = {("photos", "native", "native"): 3, ("photos", "machine_translation", "argos:en-it:1"): 1}
    train.origins.update(made)
    licenses = ("CC BY-NC 2.0", None, "CC BY 4.0", "CC BY-ND 4.0", "as agreed")
    train.licenses.update({("photos", license): 1 for license in licenses})
    manifest = {
        "dataset": name,
        "snapshot": "eca29e9fc2f8",
        "target_lang": "it",
        "sources": {"photos": {"license": license}},
        "settings": {"sources": {"photos": {"kind": "mscoco"}}},
        "test_sets": {"xtd10": {}},
        "files": {"pairs": [{"split": split, "sha256": split} for split in ("train", "val", "test")]},
        **more,
    }
    return TrainingData(manifest=manifest, splits={"train": train, "val": PairCounts(), "test": PairCounts()})


def sha256_of(model: Path) -> str:
    return str(json.loads((model / "result.json").read_text())["model_sha256"])


def write_scores(model: Path, split: str = "test", sha256: str | None = None, **more: Any) -> None:
    score = {"name": "text_to_image_R@1", "captions": "all", "value": 0.25, "low": 0.125, "high": 0.5, "chance": 0.01}
    values = {**score, "gallery_size": 1696, "num_queries": 8486, "num_dropped": 0, **more}
    found = {"split": split, "model_sha256": sha256 or sha256_of(model), "scores": [values]}
    (model / f"scores-{split}.json").write_text(json.dumps(found))


def card(
    folder: Path, told: TrainingData | None, *, name: str = "small", scoreboards: Sequence[Path] = (), **more: Any
) -> str:
    trained = open_trained(folder)
    data = card_data(folder, told, model_sha256=trained.loaded.sha256, scoreboards=scoreboards)
    return model_card(trained, data, Publication(name=name, **more), library="open_clip", how_to_read="Ask.")


def scoreboard(model: Path, *, origin: str = "", entries: Sequence[Any] = (), **facts: Any) -> Path:
    """As an earlier version wrote it: of this model and another, on one set."""
    models = [{"name": "ours", "origin": origin or open_model_folder(model, "ours").origin, "trained_on": "y"}]
    models += [{"name": "theirs", "origin": "open_clip RN50", "trained_on": "unknown"}]
    of_set: dict[str, Any] = {"task": "retrieval", "num_images": 9, "num_texts": 9, "num_missing": 0, "notes": ()}
    of_set |= {"compared": {}, "leaked": {}, "alike": {}, "files": (), **facts}
    rank = {"name": "text_to_image_median_rank", "captions": "human", "value": 2.0, "images": "leak-free"}
    rank |= {"low": 1.0, "high": 4.0, "chance": 5.0, "gallery_size": 9, "num_queries": 9, "num_dropped": 0}
    scored = [{"model": found["name"], "test_set": "xtd10", "score": rank} for found in models]
    board = {"settings": {}, "models": models, "sets": [{"name": "xtd10", **of_set}], "entries": [*scored, *entries]}
    path = model.parent / "scoreboard.json"
    path.write_text(json.dumps(board))
    return path


def head(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


@pytest.fixture
def model(compact: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(compact, tmp_path / "model"))


def test_a_card_says_what_was_seen_how_it_scores_and_what_it_cost(model: Path) -> None:
    write_scores(model)
    write_scores(model, "val", "0" * 64, value=0.99)
    text = card(model, seen(), license="cc-by-4.0")
    for part in (
        "The dataset scenes, snapshot eca29e9fc2f8. Of 4 training captions, machine translation made 1 (25.0%).",
        "| photos | CC0-1.0 | 5 / 4 | 0 / 0 | 0 / 0 |",
        "Of 5 training images, 1 forbid commercial use, 1 forbid changed copies, 1 have an unknown license, 1 state",
        "| all | all | 0.2500 | 0.1250-0.5000 | 1,696 | 8,486 |",
        "- Captions all: every caption.",
        "The val split: its scores belong to other weights, and are left out.",
        "It was trained on 152 images",
        "one language, `it`",
        "Machine translation made 25.0% of its captions",
        "Images: 152. Epochs: 1, of which 0 with frozen towers. Steps: 1. The weights are those of epoch 1",
        "in one attempt, on ",
        '"model": "resnet.json"',
        "Lin, T.-Y. et al. (2014). Microsoft COCO",
    ):
        assert part in text, part
    assert "0.9900" not in text
    assert str(model.parent) not in text


def test_a_short_training_has_not_seen_everything(model: Path) -> None:
    result, run = (json.loads((model / name).read_text()) for name in ("result.json", "run.json"))
    (model / "result.json").write_text(json.dumps({**result, "steps": 1}))
    for batch_size, told in ({"batch_size": 100}, "at most 100 of 152"), ({}, "152"):  # of another release, unknown
        settings = {name: value for name, value in run["settings"].items() if name != "batch_size"} | batch_size
        (model / "run.json").write_text(json.dumps({**run, "settings": settings}))
        assert f"It was trained on {told} images" in card(model, seen())


@pytest.mark.parametrize(
    ("learned", "made", "used"),
    [
        (["train", "val"], "6 training captions, machine translation made 3", "The train and the val split were"),
        (["train"], "4 training captions, machine translation made 1", "Only the train split was"),
        (["other", "train"], "4 training captions, machine translation made 1", "Only the train split was"),
    ],
)
def test_a_card_counts_all_that_the_model_learned_from(learned: list[str], made: str, used: str, model: Path) -> None:
    """Heads may be fitted again on the val split, and a start may have seen images of another dataset."""
    run = json.loads((model / "run.json").read_text())
    (model / "run.json").write_text(json.dumps({**run, "learned": learned}))
    given, val = seen(), PairCounts()
    val.images["photos", "val"] = val.licenses["photos", "CC0-1.0"] = 1
    val.captions["photos", "val"] = val.origins["photos", "machine_translation", "argos:en-it:1"] = 2
    text = card(model, TrainingData(manifest=given.manifest, splits={**given.splits, "val": val}))
    others = " The model that it started from, or its teacher, had seen other images." * ("other" in learned)
    refit = "val" in learned
    stated = "1 forbid commercial use, 1 forbid changed copies, 1 have an unknown license, 1 state no license"
    for part in (
        f"Of {5 + refit} training images, {stated}; the others are free.",
        f"Of {made} ({25 + 25 * refit}.0%). {used} used for training.{others}\n",
        f"Machine translation made {25 + 25 * refit}.0% of its captions",
    ):
        assert part in text


def test_no_other_image_is_free_where_none_states_a_license(model: Path) -> None:
    given = seen()
    licenses = given.splits["train"].licenses
    licenses.clear()
    licenses["photos", None] = 505
    assert "Of 505 training images, 505 state no license. Whether image licenses" in card(model, given)


def test_test_sets_that_may_be_in_the_training_data_are_told(model: Path) -> None:
    assert "No test set was guarded" not in card(model, seen())
    unguarded = "No test set was guarded while the dataset was built: {}."
    unknown = unguarded.format("its test sets may contain training images")
    assert unknown in card(model, seen(test_sets={}))
    assert unknown in card(model, seen(test_sets={}), scoreboards=[scoreboard(model, compared={"ours": []})])
    compared = card(model, seen(test_sets={}), scoreboards=[scoreboard(model, compared={"ours": ["bytes", "looks"]})])
    assert "the scored test sets were compared with the training images, others may contain some" in compared


def test_a_dataset_is_linked_by_its_name_on_the_hub_alone(model: Path) -> None:
    """Its own would lead to the dataset of somebody else, or to nothing."""
    write_scores(model)
    text = card(model, seen())
    assert "datasets" not in head(text)
    data = ModelCard(text).data
    assert (data.language, data.library_name) == (["it"], "open_clip")
    (result,) = data.eval_results
    assert (result.dataset_name, result.dataset_split) == ("scenes, test split", "test")
    assert (result.metric_type, result.metric_value) == ("text_to_image_R@1", 0.25)
    assert "95 % 0.1250-0.5000" in result.metric_name
    assert (result.dataset_type, result.dataset_revision) == ("scenes (not on the hub)", "eca29e9fc2f8")
    text = card(model, seen(), dataset_hub_name="somebody/scenes-it")
    data = ModelCard(text).data
    assert (data.datasets, data.eval_results[0].dataset_type) == (["somebody/scenes-it"], "somebody/scenes-it")
    assert data.eval_results[0].dataset_revision is None
    assert "eca29e9fc2f8, on the hub as somebody/scenes-it. Of" in MarkdownIt().render(text)
    text = card(model, None, dataset_hub_name="somebody/scenes-it")
    assert head(text)["datasets"] == ["somebody/scenes-it"]
    assert "The publisher names somebody/scenes-it on the hub" in MarkdownIt().render(text)


@pytest.mark.parametrize(
    ("splits", "listed", "leading"),
    [(["train"], (None, None), []), (["train", "val"], ("val", 0.75), []), (["val", "test"], ("test", 0.25), [0.25])],
)
def test_only_scores_of_the_test_split_lead_and_those_of_the_train_split_are_left_out(
    splits: list[str], listed: tuple[Any, Any], leading: list[float], model: Path, tmp_path: Path
) -> None:
    """An earlier version scored a train split, too."""
    folder = Path(shutil.copytree(model, tmp_path / "models" / "scenes" / "0123"))
    values = {"train": 0.96875, "val": 0.75, "test": 0.25}
    for split in splits:
        write_scores(model, split, value=values[split])
        write_scores(folder, split, value=values[split], name="text_to_image_R@5", captions="distinct", images="all")
    (found,) = list_models(tmp_path)
    assert (found.split, found.score) == listed
    text = card(model, seen())
    results = head(text).get("model-index", [{"results": []}])[0]["results"]
    assert [metric["value"] for result in results for metric in result["metrics"]] == leading
    assert ("0.7500" in text, "The epoch of the weights was chosen on these images" in text) == ("val" in splits,) * 2
    assert "0.9688" not in text


@pytest.mark.parametrize(("num_leaked", "leading"), [(5, [0.25]), (9, [])])
def test_leaks_of_a_scoreboard_are_told_and_do_not_lead(model: Path, num_leaked: int, leading: list[float]) -> None:
    numbers = {"low": 0.1, "high": 0.9, "chance": 0.1, "num_queries": 9, "num_dropped": 0, "captions": "all"}
    scores = [
        {"name": "text_to_image_R@1", "value": value, "images": images, "gallery_size": size, **numbers}
        for images, value, size in (("all", 0.875, 9), ("leak-free", 0.25, 4))
    ]
    entries = [{"model": name, "test_set": "xtd10", "score": score} for name in ("ours", "asked") for score in scores]
    leaked = {f"{place}.jpg": "the same bytes as one" for place in range(num_leaked)}
    path = scoreboard(model, entries=entries, leaked={"ours": leaked}, notes=("all captions are translated",))
    board = json.loads(path.read_text())
    board["models"].append({**board["models"][0], "name": "asked", "origin": board["models"][0]["origin"] + ", asked"})
    path.write_text(json.dumps(board))
    text = card(model, None, scoreboards=[path])
    assert f"Of its 9 images {num_leaked} are among those that the model was trained on" in text
    assert "- All captions are translated." in text
    results = head(text).get("model-index", [{"results": []}])[0]["results"]
    assert [metric["value"] for result in results for metric in result["metrics"]] == leading


def test_scores_of_a_scoreboard_are_told_of_these_weights_alone(model: Path) -> None:
    text = card(model, None, scoreboards=[scoreboard(model)])
    row = "| text_to_image_median_rank | human | leak-free | 2.0 | 1.0-4.0 | 9 | 9 |"
    assert text.count(row) == 1
    assert "xtd10:\n" in text
    assert "- Captions human: captions that people wrote or validated, and native ones." in text
    with pytest.raises(InputError, match="has no score of these weights"):
        card(model, None, scoreboards=[scoreboard(model, origin="vernaclip x, weights ffffffffffff")])
    with pytest.raises(InputError, match="cannot be read"):
        card(model, None, scoreboards=[model / "none.json"])


ENGLISH = {"asked": "it", "stated": None, "looks_like": {"en": 0.9, "fr": 0.05}, "num_judged": 9}
GERMAN = {"asked": "it", "stated": "de", "looks_like": {"it": 0.5}, "num_judged": 9}
ITALIAN = {"asked": "it", "stated": None, "looks_like": {}, "num_judged": 9}


@pytest.mark.parametrize(
    ("language", "has_split", "is_seen", "told", "not_told"),
    [
        (ITALIAN, True, True, ["one language, `it`, and in no other.", "scored in `it` and in no others."], "also"),
        (ENGLISH, False, True, ["scored in `en` and in no others, but was never trained in `en`"], "`it` and"),
        (GERMAN, True, True, ["scored in `de` and `it` and in no others, but was never trained in `de`"], "recorded"),
        (None, True, True, ["of the texts of xtd10 was not recorded", "scored in `it`. Its"], "no others"),
        (GERMAN, True, False, ["of the texts of test was not recorded", "scored in `de`. Its"], "trained on captions"),
        ("", False, True, ["in one language, `it`", "It has not been scored in any"], "was not recorded"),
    ],
)
def test_a_card_says_in_which_languages_it_was_measured(
    language: Any, has_split: bool, is_seen: bool, told: list[str], not_told: str, model: Path
) -> None:
    if has_split:
        write_scores(model)
    boards = [] if language == "" else [scoreboard(model, language=language)]
    text = card(model, seen() if is_seen else None, scoreboards=boards).partition("## Limits")[2]
    assert all(part in text for part in told), text
    assert not_told not in text, text


@pytest.mark.parametrize(
    "language", [5, {}, {"asked": 5, "stated": None, "looks_like": {}}, {"asked": "it", "looks_like": None}, "no board"]
)
def test_what_is_no_scoreboard_or_names_no_language_is_refused(language: Any, model: Path) -> None:
    path = scoreboard(model, language=language)
    if language == "no board":
        path.write_text("[]")
    with pytest.raises(InputError, match="is not a valid table of scores"):
        card(model, None, scoreboards=[path])


@pytest.mark.parametrize("number", [math.inf, math.nan, 10**400])
def test_a_score_that_is_no_finite_number_is_refused(number: float, model: Path) -> None:
    """A JSON file may hold such numbers, and others may have written a scoreboard."""
    path = scoreboard(model)
    board = json.loads(path.read_text())
    score = {**board["entries"][0]["score"], "value": number}
    path.write_text(json.dumps({**board, "entries": [{**board["entries"][0], "score": score}]}))
    with pytest.raises(InputError, match="is not a valid table of scores"):
        card(model, None, scoreboards=[path])
    write_scores(model, value=number)
    with pytest.raises(InputError, match="is not a valid table of scores"):
        card(model, None)


def test_a_card_of_a_folder_alone_claims_nothing_but_the_license_that_its_publisher_states(model: Path) -> None:
    stated = {"license": "other", "license_name": "mine-1.0", "license_link": "https://example.org/mine"}
    text = card(model, None, **stated)
    assert {key: head(text)[key] for key in stated} == stated
    assert "states the license mine-1.0 (https" in text
    (model / EFFORT_FILE).unlink()
    text = card(model, None)
    assert head(text).keys() == {"library_name", "pipeline_tag", "tags"}
    assert "Unknown: the model's folder does not state the dataset and snapshot" in text
    assert "The model has not been scored" in text
    assert "Unknown: `effort.json`, which training writes, was removed" in text
    assert "No license is stated" in text


def test_what_datasets_and_recipes_say_is_shown_and_does_nothing(model: Path) -> None:
    write_scores(model, name=f"R@1 {HOSTILE}")
    run = json.loads((model / "run.json").read_text())
    run["settings"]["model"] = f"```\n{HOSTILE}"
    (model / "run.json").write_text(json.dumps(run))
    told = seen(name=HOSTILE, license=HOSTILE, target_lang=HOSTILE, snapshot=HOSTILE)
    text = card(model, told, name=HOSTILE, license_name=HOSTILE, license_link=HOSTILE, dataset_hub_name=HOSTILE)
    found = head(text)
    assert [found["license_name"], found["license_link"], *found["datasets"]] == [HOSTILE] * 3
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])
    assert "<script" not in html
    assert "evil.example" in html
    assert '<a href="http://evil' not in html
    assert html.count("<h1>") == 1
    assert "\u202e" not in html


def attempt(seconds: float, **more: Any) -> Attempt:
    values = {"started": "2026-01-01T00:00:00+00:00", "first_step": 0, "last_step": 1, "device": "cpu"}
    return Attempt(**{**values, "seconds": seconds, "hardware": ("A processor",), "processes": 1, **more})


def test_time_adds_up_over_attempts() -> None:
    text = cost_section([attempt(3600), attempt(65), attempt(1.4, processes=2)])
    assert "1 h 1 min 6 s in 3 attempts, on A processor. Up to 2 processes trained together" in text

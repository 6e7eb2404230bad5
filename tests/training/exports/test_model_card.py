"""Model cards: what they say of data, scores and time, and that nothing in them does harm."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from data_catalog.base.errors import DamagedError, InputError
from data_catalog.exports.counts import PairCounts
from training.exports.formats import ModelExportConfig
from training.exports.model_card import TrainingData, model_card, read_scores
from training.exports.trained_folder import open_trained
from training.scores.rows import Board, ModelFacts, ScoreRow, SetFacts, TextLanguage

HOSTILE = "<script>alert(1)</script> [x](http://evil.example) | `a` \u202e --- \x85"
NUMBERS: dict[str, Any] = {"value": 0.25, "low": 0.125, "high": 0.5, "chance": 0.01}
SCORE = ScoreRow(
    model="ours",
    test_set="test",
    metric="text_to_image_R@1",
    captions="all",
    gallery=1696,
    queries=8486,
    left_out=0,
    **NUMBERS,
)


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


def write_board(path: Path, model: Path, rows: Sequence[ScoreRow], sha256: str = "", **facts: Any) -> Path:
    """The scores of this model and of another on one set."""
    ours = sha256 or json.loads((model / "result.json").read_text())["model_sha256"]
    origins = {"ours": f"vernaclip model, weights {ours[:12]}", "theirs": "open_clip RN50"}
    models = tuple(ModelFacts(name=name, origin=origin) for name, origin in origins.items())
    about = SetFacts(**{"name": rows[0].test_set, "task": "retrieval", "num_images": 9, "num_texts": 9, **facts})
    both = tuple(replace(row, model=each.name) for each in models for row in rows)
    path.write_text(json.dumps(Board(rows=both, models=models, sets=(about,)).to_json()))
    return path


def write_scores(model: Path, split: str = "test", sha256: str = "", **more: Any) -> None:
    row = replace(SCORE, test_set=split, **more)
    write_board(model / f"scores-{split}.json", model, [row], sha256=sha256)


def scoreboard(model: Path, rows: Sequence[Mapping[str, Any]] = ({},), sha256: str = "", **facts: Any) -> Path:
    """A median rank on one test set, or these scores."""
    rank = {"metric": "text_to_image_median_rank", "captions": "human", "images": "leak-free", "gallery": 9}
    rank |= {"value": 2.0, "low": 1.0, "high": 4.0, "queries": 9, "test_set": "xtd10"}
    chosen = [replace(SCORE, **rank | dict(row)) for row in rows]
    return write_board(model.parent / "scoreboard.json", model, chosen, sha256=sha256, **facts)


def card(
    folder: Path, told: TrainingData | None, *, name: str = "small", scoreboards: Sequence[Path] = (), **more: Any
) -> str:
    trained = open_trained(folder)
    config = ModelExportConfig(name=name, formats=("open_clip",), **more)
    scores = read_scores(trained, scoreboards, told)
    return model_card(trained, config, told, scores, library="open_clip")


def said(text: str) -> str:
    return " ".join(text.split())


def head(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def leading(text: str) -> list[float]:
    """The scores that the hub lists."""
    results = head(text).get("model-index", [{"results": []}])[0]["results"]
    return [metric["value"] for result in results for metric in result["metrics"]]


@pytest.fixture
def model(compact: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(compact, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    """Give a JSON object these values in the place of its own."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_card_says_what_was_seen_how_it_scores_and_how_long_it_took(model: Path) -> None:
    write_scores(model)
    write_scores(model, "val", "0" * 64, value=0.99)
    text = said(card(model, seen(), license="cc-by-4.0"))
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


@pytest.mark.parametrize(
    ("learned", "made", "used"),
    [
        (["train", "val"], "6 training captions, machine translation made 3", "The train and the val split were"),
        (["other", "train"], "4 training captions, machine translation made 1", "Only the train split was"),
    ],
)
def test_a_card_counts_all_that_the_model_learned_from(learned: list[str], made: str, used: str, model: Path) -> None:
    """Heads may be fitted again on the val split, and a start may have seen images of another dataset."""
    change(model / "run.json", learned=learned)
    given, val = seen(), PairCounts()
    val.images["photos", "val"] = val.licenses["photos", "CC0-1.0"] = 1
    val.captions["photos", "val"] = val.origins["photos", "machine_translation", "argos:en-it:1"] = 2
    text = said(card(model, TrainingData(manifest=given.manifest, splits={**given.splits, "val": val})))
    others = " The model that it started from, or its teacher, had seen other images." * ("other" in learned)
    refit = "val" in learned
    stated = "1 forbid commercial use, 1 forbid changed copies, 1 have an unknown license, 1 state no license"
    for part in (
        f"Of {5 + refit} training images, {stated}; the others are free.",
        f"Of {made} ({25 + 25 * refit}.0%). {used} used for training.{others} | source |",
        f"Machine translation made {25 + 25 * refit}.0% of its captions",
    ):
        assert part in text


def test_test_sets_that_may_be_in_the_training_data_are_told(model: Path) -> None:
    def limits(**more: Any) -> str:
        return said(card(model, seen(**more), scoreboards=boards))

    boards: list[Path] = []
    assert "No test set was guarded" not in limits()
    unguarded = "No test set was guarded while the dataset was built: {}."
    unknown = unguarded.format("its test sets may contain training images")
    assert unknown in limits(test_sets={})
    boards = [scoreboard(model, compared={"ours": []})]
    assert unknown in limits(test_sets={})
    boards = [scoreboard(model, compared={"ours": ["bytes", "looks"]})]
    compared = "the scored test sets were compared with the training images, others may contain some of them"
    assert unguarded.format(compared) in limits(test_sets={})


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
    assert "eca29e9fc2f8, on the hub as somebody/scenes-it." in MarkdownIt().render(text)
    text = card(model, None, dataset_hub_name="somebody/scenes-it")
    assert head(text)["datasets"] == ["somebody/scenes-it"]
    assert "The publisher names somebody/scenes-it on the hub" in MarkdownIt().render(text)


@pytest.mark.parametrize(("splits", "listed"), [(["train", "val"], []), (["val", "test"], [0.25])])
def test_only_scores_of_the_test_split_lead_and_those_of_the_train_split_are_left_out(
    splits: list[str], listed: list[float], model: Path
) -> None:
    """An earlier version scored a train split, too."""
    for split in splits:
        write_scores(model, split, value={"train": 0.96875, "val": 0.75, "test": 0.25}[split])
    text = card(model, seen())
    assert leading(text) == listed
    assert "0.7500" in text
    assert "The epoch of the weights was chosen on these images" in text
    assert "0.9688" not in text


@pytest.mark.parametrize(("num_leaked", "listed"), [(5, [0.25]), (9, [])])
def test_leaks_of_a_scoreboard_are_told_and_do_not_lead(model: Path, num_leaked: int, listed: list[float]) -> None:
    score = {"metric": "text_to_image_R@1", "captions": "all"}
    rows = [{**score, "value": 0.875, "images": "all"}, {**score, "value": 0.25, "gallery": 4}]
    leaked = {f"{place}.jpg": "the same bytes as one" for place in range(num_leaked)}
    board = scoreboard(model, rows, leaked={"ours": leaked}, notes=("all captions are translated",))
    text = card(model, None, scoreboards=[board])
    assert f"Of its 9 images {num_leaked} are among those that the model was trained on" in text
    assert "- All captions are translated." in text
    assert "- Images leak-free: images that match" in text
    assert leading(text) == listed


def test_scores_of_a_scoreboard_are_told_of_these_weights_alone(model: Path) -> None:
    text = card(model, None, scoreboards=[scoreboard(model)])
    row = "| text_to_image_median_rank | human | leak-free | 2 | 1-4 | 9 | 9 |"
    assert text.count(row) == 1
    assert "xtd10:\n" in text
    assert "- Captions human: captions that people wrote or validated, and native ones." in text
    with pytest.raises(InputError, match="has no score of these weights"):
        card(model, None, scoreboards=[scoreboard(model, sha256="f" * 64)])


ENGLISH = TextLanguage(asked="it", stated="en")
GERMAN = TextLanguage(asked="it", stated="de")


@pytest.mark.parametrize(
    ("language", "has_split", "is_seen", "told", "not_told"),
    [
        (ENGLISH, False, True, ["scored in `en` and in no others, but was never trained in `en`"], "`it` and"),
        (GERMAN, True, True, ["scored in `de` and `it` and in no others, but was never trained in `de`"], "recorded"),
        (None, True, True, ["of the texts of xtd10 was not recorded", "scored in `it`. Its"], "no others"),
        (GERMAN, True, False, ["of the texts of test was not recorded", "scored in `de`. Its"], "trained on captions"),
    ],
)
def test_a_card_says_in_which_languages_it_was_measured(
    language: Any, has_split: bool, is_seen: bool, told: list[str], not_told: str, model: Path
) -> None:
    if has_split:
        write_scores(model)
    boards = [scoreboard(model, language=language)]
    text = said(card(model, seen() if is_seen else None, scoreboards=boards).partition("## Limits")[2])
    assert all(part in text for part in told), text
    assert not_told not in text, text


def test_a_card_of_a_folder_alone_claims_nothing_but_the_license_that_its_publisher_states(model: Path) -> None:
    stated = {"license": "other", "license_name": "mine-1.0", "license_link": "https://example.org/mine"}
    text = card(model, None, **stated)
    assert {key: head(text)[key] for key in stated} == stated
    assert "states the license mine-1.0 (https" in MarkdownIt().render(text)
    (model / "effort.json").unlink()
    text = card(model, None)
    assert head(text).keys() == {"library_name", "pipeline_tag", "tags"}
    for part in (
        "Unknown: the model's folder does not state the dataset and snapshot",
        "The model has not been scored",
        "Unknown: `effort.json`, which training writes, was removed",
        "No license is stated",
    ):
        assert part in text


def test_what_datasets_and_recipes_say_is_shown_and_does_nothing(model: Path) -> None:
    write_scores(model, metric=f"R@1 {HOSTILE}")
    run = json.loads((model / "run.json").read_text())
    lesson = {"teacher": HOSTILE, "origins": {HOSTILE: 1}, "is_of_dataset": True}
    change(model / "run.json", settings={**run["settings"], "model": f"```\n{HOSTILE}", "distil": lesson})
    told = seen(name=HOSTILE, license=HOSTILE, target_lang=HOSTILE, snapshot=HOSTILE)
    publisher = dict.fromkeys(("name", "license_name", "license_link", "dataset_hub_name"), HOSTILE)
    board = scoreboard(model, [{"test_set": HOSTILE}], notes=(HOSTILE,))
    text = card(model, told, scoreboards=[board], **publisher)
    found = head(text)
    assert [found["license_name"], found["license_link"], *found["datasets"]] == [HOSTILE] * 3
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])
    assert "<script" not in html
    assert "evil.example" in html
    assert '<a href="http://evil' not in html
    assert html.count("<h1>") == 1
    assert "\u202e" not in html
    for wrong in ({**lesson, "teacher": [HOSTILE]}, {**lesson, "origins": {"native": HOSTILE}}, {"teacher": "x"}):
        change(model / "run.json", settings={**run["settings"], "distil": wrong})
        with pytest.raises(DamagedError, match=r"run\.json "):
            card(model, told)


def test_a_short_training_has_not_seen_everything(model: Path) -> None:
    settings = json.loads((model / "run.json").read_text())["settings"]
    change(model / "result.json", steps=1)
    for batch_size, told in ({"batch_size": 100}, "at most 100 of 152"), ({}, "152"):  # of another release, unknown
        others = {name: value for name, value in settings.items() if name != "batch_size"}
        change(model / "run.json", settings=others | batch_size)
        assert f"It was trained on {told} images" in card(model, seen())

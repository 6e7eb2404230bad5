"""Model cards: what they say of data, scores, time and energy, and that nothing in them does harm."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from data_catalog.errors import DamagedError, InputError
from data_catalog.exports.counts import PairCounts
from training.exports.model_card import (
    Publication,
    TrainingData,
    card_data,
    cost_section,
    duration,
    limits_section,
    model_card,
)
from training.exports.trained_folder import open_trained
from training.fit.effort import Attempt
from training.scores.encoders import open_model_folder
from training.trained_models import EFFORT_FILE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

HOSTILE = "<script>alert(1)</script> [x](http://evil.example) | `a` \u202e --- \x85"


def seen(name: str = "scenes", license: str = "CC0-1.0", **more: Any) -> TrainingData:
    """Three images to train on, one of them with two captions; one caption is translated."""
    train = PairCounts()
    train.images["photos", "train"] = 3
    train.captions["photos", "train"] = 4
    made = {("photos", "native", "native"): 3, ("photos", "machine_translation", "argos:en-it:1"): 1}
    train.origins.update(made)
    train.licenses.update({("photos", "CC BY-NC 2.0"): 1, ("photos", None): 1, ("photos", "CC BY 4.0"): 1})
    manifest = {
        "dataset": name,
        "snapshot": "eca29e9fc2f8",
        "target_lang": "it",
        "sources": {"photos": {"license": license}},
        "settings": {"sources": {"photos": {"kind": "mscoco"}}},
        "test_sets": {"xtd10": {}},
        **more,
    }
    return TrainingData(manifest=manifest, splits={"train": train, "val": PairCounts(), "test": PairCounts()})


def write_scores(folder: Path, split: str, sha256: str, **more: Any) -> None:
    score = {"name": "text_to_image_R@1", "captions": "all", "value": 0.25, "low": 0.125, "high": 0.5, "chance": 0.01}
    values = {**score, "gallery_size": 1696, "num_queries": 8486, "num_dropped": 0, **more}
    (folder / f"scores-{split}.json").write_text(
        json.dumps({"split": split, "model_sha256": sha256, "scores": [values], "protocol": "something newer"})
    )


def card(
    folder: Path, told: TrainingData | None, *, name: str = "small", scoreboards: Sequence[Path] = (), **more: Any
) -> str:
    trained = open_trained(folder)
    data = card_data(folder, told, model_sha256=trained.loaded.sha256, scoreboards=scoreboards)
    return model_card(trained, data, Publication(name=name, **more), library="open_clip", how_to_read="Ask.")


def scoreboard(path: Path, origin: str) -> Path:
    """As `vernaclip scoreboard` writes it, by its own classes."""
    from training.scores.score import Score
    from training.scores.scoreboard import Entry, ModelFacts, Scoreboard, SetFacts

    models = [ModelFacts(name="ours", origin=origin, trained_on="y")]
    models += [ModelFacts(name="theirs", origin="open_clip RN50", trained_on="unknown")]
    facts: dict[str, Any] = {"task": "retrieval", "num_images": 9, "num_texts": 9, "num_missing": 0, "notes": ()}
    facts |= {"compared": {}, "leaked": {}, "alike": {}, "files": ()}
    numbers = {"low": 1.0, "high": 4.0, "chance": 5.0, "gallery_size": 9, "num_queries": 9, "num_dropped": 0}
    rank = Score(name="text_to_image_median_rank", captions="human", value=2.0, images="leak-free", **numbers)
    entries = tuple(Entry(model=model.name, test_set="xtd10", score=rank) for model in models)
    board = Scoreboard(settings={}, models=tuple(models), sets=(SetFacts(name="xtd10", **facts),), entries=entries)
    path.write_text(json.dumps(board.to_json()))
    return path


def head(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


@pytest.fixture
def model(compact: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(compact, tmp_path / "model"))


def test_a_card_says_what_was_seen_how_it_scores_and_what_it_cost(model: Path) -> None:
    sha256 = json.loads((model / "result.json").read_text())["model_sha256"]
    write_scores(model, "test", sha256, new_column=[1])
    write_scores(model, "val", "0" * 64, value=0.99)
    text = card(model, seen(), license="cc-by-4.0")
    for part in (
        "The dataset scenes, snapshot eca29e9fc2f8. Of 4 training captions, machine translation made 1 (25.0%).",
        "| photos | CC0-1.0 | 3 / 4 | 0 / 0 | 0 / 0 |",
        "Of 3 training images, 1 forbid commercial use, 1 state none; the others are free.",
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
    assert "No test set was guarded" not in text
    unguarded = card(model, seen(test_sets={}))
    assert (
        "No test set was guarded while the dataset was built: its test sets may contain training images." in unguarded
    )
    assert str(model.parent) not in text


def test_a_short_training_has_not_seen_everything(model: Path) -> None:
    result = json.loads((model / "result.json").read_text())
    (model / "result.json").write_text(json.dumps({**result, "steps": 1}))
    run = json.loads((model / "run.json").read_text())
    run["settings"]["batch_size"] = 100
    (model / "run.json").write_text(json.dumps(run))
    assert "It was trained on at most 100 of 152 images" in card(model, seen())
    del run["settings"]["batch_size"]  # as of another release
    (model / "run.json").write_text(json.dumps(run))
    assert "It was trained on 152 images" in card(model, seen())


def test_sets_that_were_compared_with_training_are_not_called_unguarded(model: Path, tmp_path: Path) -> None:
    sha256 = json.loads((model / "result.json").read_text())["model_sha256"]
    path = scoreboard(tmp_path / "scoreboard.json", f"vernaclip x, weights {sha256[:12]}")
    for ways, said in (
        (["bytes", "looks"], "were compared with the training images"),
        ([], "its test sets may contain"),
    ):
        board = json.loads(path.read_text())
        board["sets"][0]["compared"] = {"ours": ways}
        path.write_text(json.dumps(board))
        text = card(model, seen(test_sets={}), scoreboards=[path])
        (line,) = [line for line in text.splitlines() if "No test set was guarded" in line]
        assert said in line


def test_a_dataset_is_linked_by_its_name_on_the_hub_alone(model: Path) -> None:
    """Its own would lead to the dataset of somebody else, or to nothing."""
    from huggingface_hub import ModelCard

    sha256 = json.loads((model / "result.json").read_text())["model_sha256"]
    write_scores(model, "test", sha256)
    text = card(model, seen())
    assert "datasets" not in head(text)
    data = ModelCard(text).data
    assert (data.language, data.library_name) == (["it"], "open_clip")
    (result,) = data.eval_results
    assert (result.dataset_name, result.dataset_split) == ("scenes, test split", "test")
    assert (result.metric_type, result.metric_value) == ("text_to_image_R@1", 0.25)
    assert "95 % 0.1250-0.5000" in result.metric_name
    assert (result.dataset_type, result.dataset_revision) == ("scenes (not on the hub)", "eca29e9fc2f8")
    assert "The dataset scenes, snapshot eca29e9fc2f8. Of" in text
    text = card(model, seen(), dataset_hub_name="somebody/scenes-it")
    data = ModelCard(text).data
    assert (data.datasets, data.eval_results[0].dataset_type) == (["somebody/scenes-it"], "somebody/scenes-it")
    assert data.eval_results[0].dataset_revision is None
    html = MarkdownIt().render(text.split("---\n", 2)[2])
    assert "The dataset scenes, snapshot eca29e9fc2f8, on the hub as somebody/scenes-it. Of" in html
    text = card(model, None, dataset_hub_name="somebody/scenes-it")
    assert head(text)["datasets"] == ["somebody/scenes-it"]
    assert "The publisher names somebody/scenes-it on the hub" in MarkdownIt().render(text)


def test_a_license_that_the_hub_has_no_word_for(model: Path) -> None:
    stated = {"license": "other", "license_name": "mine-1.0", "license_link": "https://example.org/mine"}
    text = card(model, None, **stated)
    found = head(text)
    assert [found[key] for key in ("license", "license_name", "license_link")] == list(stated.values())
    assert "states the license mine-1.0 (https" in text


@pytest.mark.parametrize("images", [5, None, ["all"]])
def test_scores_of_images_that_have_no_name_are_no_scores(images: object, model: Path) -> None:
    write_scores(model, "test", json.loads((model / "result.json").read_text())["model_sha256"], images=images)
    with pytest.raises(DamagedError, match="is not a file of scores"):
        card(model, None)


def test_leaks_of_a_scoreboard_are_told_and_do_not_lead(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "scoreboard.json"
    board = json.loads(scoreboard(path, open_model_folder(model, "ours").origin).read_text())
    numbers = {"low": 0.1, "high": 0.9, "chance": 0.1, "num_queries": 9, "num_dropped": 0, "captions": "all"}
    for images, value, size in (("all", 0.875, 9), ("leak-free", 0.25, 4)):
        score = {"name": "text_to_image_R@1", "value": value, "images": images, "gallery_size": size, **numbers}
        board["entries"] += [{"model": "ours", "test_set": "xtd10", "score": score}]
    board["models"].append({**board["models"][0], "name": "asked", "origin": board["models"][0]["origin"] + ", asked"})
    board["entries"].append({**board["entries"][-1], "model": "asked"})
    leaked = {f"{place}.jpg": "the same bytes as one" for place in range(5)}
    board["sets"][0] |= {"leaked": {"ours": leaked}, "notes": ["all captions are translated by a machine"]}
    path.write_text(json.dumps(board))
    text = card(model, None, scoreboards=[path])
    assert "Of its 9 images 5 are among those that the model was trained on" in text
    assert "- All captions are translated by a machine." in text
    (result,) = head(text)["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [0.25]
    board["sets"][0] |= {"leaked": {"ours": leaked | {f"{place}.png": "the same" for place in range(4)}}}
    path.write_text(json.dumps(board))
    text = card(model, None, scoreboards=[path])
    assert "model-index" not in head(text)


@pytest.mark.parametrize("damage", ['{"attempts": {}}', '{"attempts": [{"seconds": "12"}]}'])
def test_a_damaged_account_of_what_was_spent_is_told(model: Path, damage: str) -> None:
    (model / EFFORT_FILE).write_text(damage)
    with pytest.raises(DamagedError, match="is damaged"):
        card(model, None)


def test_scores_of_a_scoreboard_are_told_of_these_weights_alone(model: Path, tmp_path: Path) -> None:
    sha256 = json.loads((model / "result.json").read_text())["model_sha256"]
    path = tmp_path / "scoreboard.json"
    origin = open_model_folder(model, "ours").origin
    text = card(model, None, scoreboards=[scoreboard(path, origin)])
    row = "| text&#95;to&#95;image&#95;median&#95;rank | human | leak-free | 2.0 | 1.0-4.0 | 9 | 9 |"
    assert text.count(row) == 1
    assert "xtd10:\n" in text
    assert "- Captions human: captions that people wrote or validated, and native ones." in text
    with pytest.raises(InputError, match="has no score of these weights"):
        card_data(model, None, model_sha256=sha256, scoreboards=[scoreboard(path, "vernaclip x, weights ffffffffffff")])
    path.write_text("[]")
    with pytest.raises(InputError, match=r"scoreboard\.json is not a valid scoreboard\.json"):
        card_data(model, None, model_sha256=sha256, scoreboards=[path])
    with pytest.raises(InputError, match="cannot be read"):
        card_data(model, None, model_sha256=sha256, scoreboards=[tmp_path / "none.json"])


def in_language(path: Path, language: object) -> None:
    """Write what a scoreboard says of the language of its one set."""
    board = json.loads(path.read_text())
    board["sets"][0]["language"] = language
    path.write_text(json.dumps(board))


@pytest.mark.parametrize(
    ("language", "measured"),
    [
        ({"asked": "it", "stated": None, "looks_like": {}, "num_judged": None}, "`it` and in no others"),
        (
            {"asked": "it", "stated": "de", "looks_like": {"it": 0.5}, "num_judged": 9},
            "`de` and in no others, but was never",
        ),
        (
            {"asked": "it", "stated": "it", "looks_like": {"en": 0.9, "fr": 0.05}, "num_judged": 9},
            "`en` and in no others, but was never",
        ),
    ],
)
def test_texts_that_look_like_another_language_are_in_that(
    language: dict[str, Any], measured: str, model: Path, tmp_path: Path
) -> None:
    sha256 = json.loads((model / "result.json").read_text())["model_sha256"]
    path = scoreboard(tmp_path / "scoreboard.json", open_model_folder(model, "ours").origin)
    in_language(path, language)
    text = limits_section(card_data(model, seen(), model_sha256=sha256, scoreboards=[path]), open_trained(model))
    assert f"It was scored in {measured}" in text


@pytest.mark.parametrize(
    ("language", "has_split", "is_seen", "told", "not_told"),
    [
        ("it", True, True, ["one language, `it`, and in no other.", "scored in `it` and in no others."], "also where"),
        ("de", True, True, ["scored in `de` and `it` and in no others, but was never trained in `de`"], "not recorded"),
        ("de", False, True, ["scored in `de` and in no others, but was never trained in `de`. Its"], "`de` and `"),
        (None, True, True, ["of the texts of xtd10 was not recorded", "scored in `it`. Its"], "no others"),
        (None, False, True, ["trained on captions in one language, `it`", "xtd10 was not recorded"], "scored in"),
        ("de", True, False, ["of the texts of test was not recorded", "scored in `de`. Its"], "trained on captions"),
        ("", False, True, ["in one language, `it`", "It has not been scored in any"], "was not recorded"),
    ],
)
def test_a_card_says_in_which_languages_it_was_measured(
    language: str | None, has_split: bool, is_seen: bool, told: list[str], not_told: str, model: Path, tmp_path: Path
) -> None:
    sha256 = json.loads((model / "result.json").read_text())["model_sha256"]
    path = scoreboard(tmp_path / "scoreboard.json", open_model_folder(model, "ours").origin)
    if language:
        in_language(path, {"asked": "it", "stated": language, "looks_like": {}, "num_judged": 9})
    if has_split:
        write_scores(model, "test", sha256)
    boards = [] if language == "" else [path]
    data = card_data(model, seen() if is_seen else None, model_sha256=sha256, scoreboards=boards)
    text = limits_section(data, open_trained(model))
    for part in told:
        assert part in text, text
    assert not_told not in text, text


@pytest.mark.parametrize(
    "language", [5, {}, {"asked": 5, "stated": None, "looks_like": {}}, {"asked": "it", "looks_like": None}]
)
def test_a_scoreboard_of_no_language_is_none(language: object, model: Path, tmp_path: Path) -> None:
    sha256 = json.loads((model / "result.json").read_text())["model_sha256"]
    path = scoreboard(tmp_path / "scoreboard.json", open_model_folder(model, "ours").origin)
    in_language(path, language)
    with pytest.raises(InputError, match=r"is not a valid scoreboard\.json"):
        card_data(model, None, model_sha256=sha256, scoreboards=[path])


def test_a_card_of_a_folder_alone_claims_nothing(model: Path) -> None:
    (model / "effort.json").unlink()
    text = card(model, None)
    assert head(text).keys() == {"library_name", "pipeline_tag", "tags"}
    assert "Unknown: the model was exported from its folder alone" in text
    assert "The model has not been scored" in text
    assert "Unknown: `effort.json`, which training writes, was removed" in text
    assert "No license is stated" in text


def test_what_datasets_and_recipes_say_is_shown_and_does_nothing(model: Path) -> None:
    sha256 = json.loads((model / "result.json").read_text())["model_sha256"]
    write_scores(model, "test", sha256, name=f"R@1 {HOSTILE}")
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


def test_time_and_energy_add_up_over_attempts() -> None:
    text = cost_section(
        [
            attempt(3600, joules={"package-0": 3_600_000.0}),
            attempt(65, joules={"package-0": 1_800_000.0}, not_measured=("GPU 0: it has no energy counter",)),
            attempt(1.4, not_measured=("processor: this system has no RAPL counters",), processes=2),
        ]
    )
    assert "1 h 1 min 6 s in 3 attempts, on A processor. Up to 2 processes trained together" in text
    assert "- package-0: 1.5000 kWh, in 2 of 3 attempts" in text
    assert "- Not measured: GPU 0&#58; it has no energy counter" in text
    assert "- Not measured: processor&#58; this system has no RAPL counters" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "less than a second"), (59.6, "1 min"), (3600, "1 h"), (7384, "2 h 3 min 4 s"), (360_000, "100 h")],
)
def test_durations_are_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text

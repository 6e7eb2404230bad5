"""Pretrained towers that are here: in packages and in the hub's cache, and what a first recipe makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.recipe.recipe import load_recipe

CARD = "---\nlanguage:\n- de\n- en\nlicense: mit\n---\n# A small BERT\n"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def cache(name: str, files: dict[str, str]) -> None:
    """Put a model into the hub's cache, as a download does."""
    revision = "0" * 40
    repo = Path("hub", f"models--{name.replace('/', '--')}")
    snapshot = repo / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision)
    (repo / "blobs").mkdir()
    for number, (file, text) in enumerate(files.items()):
        blob = repo / "blobs" / str(number)
        blob.write_text(text)
        (snapshot / file).symlink_to(blob.absolute())


BERT = {
    "config.json": json.dumps({"model_type": "bert", "vocab_size": 99}),
    "README.md": CARD,
    "model.safetensors": "",
}


def test_towers_of_packages_and_of_the_cache_are_listed_with_what_to_type(told: Any) -> None:
    cache("some/german-bert", BERT)
    cache(
        "timm/resnet18.a1_in1k",
        {"model.safetensors": "", "config.json": json.dumps({"architecture": "resnet18", "license": "apache-2.0"})},
    )
    cache("some/whisper", BERT | {"config.json": json.dumps({"model_type": "whisper"})})
    cache("some/gpt", BERT | {"config.json": json.dumps({"model_type": "gpt2", "vocab_size": 99})})
    cache("some/config", {"config.json": BERT["config.json"]})
    rows = {row["name"]: row for row in json.loads(told(["towers", "--json"]))}
    assert rows["efficientnet-lite0"]["is_here"] is True
    assert rows["efficientnet-lite0"]["num_bytes"] == 18_826_032
    german = rows["some/german-bert"]
    assert (german["side"], german["license"], german["languages"]) == ("text", "mit", ["de", "en"])
    assert (rows["resnet18.a1_in1k"]["side"], rows["resnet18.a1_in1k"]["license"]) == ("image", "apache-2.0")
    assert not {"some/whisper", "some/gpt", "some/config"} & rows.keys()
    printed = told(["towers"])
    assert "--set train.image_tower=efficientnet-lite0" in printed
    assert "--set train.text_encoder=some/german-bert" in printed


def test_with_a_language_only_encoders_that_read_it_and_what_its_pack_recommends(told: Any) -> None:
    cache("some/german-bert", BERT)
    italian = {row["name"]: row for row in json.loads(told(["towers", "--language", "it", "--json"]))}
    assert "some/german-bert" not in italian
    assert italian["dbmdz/bert-base-italian-xxl-cased"]["is_here"] is False
    assert "some/german-bert" in told(["towers", "--language", "de"])


def first_recipe(told: Any, language: str, *more: str) -> Any:
    Path("captions.csv").write_text("url,caption\n" + "https://a.example/1.jpg,Ein Hund rennt über den Schnee\n" * 9)
    Path("mine.toml").unlink(missing_ok=True)
    told(["init", "mine", "--language", language, "--pairs", "captions.csv", *more])
    return load_recipe("mine.toml", root=Path("catalog"))


def test_a_first_recipe_aligns_with_an_encoder_that_is_here_and_else_trains_a_text_tower(told: Any) -> None:
    alone = first_recipe(told, "de")
    assert (alone.model.by, alone.train.text_encoder, alone.train.freeze_image) == ("train", "", True)
    cache("some/german-bert", BERT)
    made = first_recipe(told, "de")
    assert (made.model.by, made.train.text_encoder) == ("align", "some/german-bert")
    assert alone.train.image_tower == made.train.image_tower == "efficientnet-lite0"
    assert (made.train.text_license, made.align.refit) == ("mit", True)


def test_with_parallel_sentences_a_text_tower_learns_from_an_english_encoder(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("en-de.tsv").write_text("".join(f"A dog runs {n} times\tEin Hund rennt {n} Mal\n" for n in range(60)))
    words = ["init", "mine", "--language", "de", "--pairs", "captions.csv", "--parallel"]
    monkeypatch.setattr("flows.towers.installed", lambda tower: None)
    first_recipe(told, "de")
    Path("mine.toml").unlink()
    assert "needs an English text encoder on this machine" in told([*words, "en-de.tsv"], code=1)
    cache("some/german-bert", BERT)
    found = first_recipe(told, "de", "--parallel", "en-de.tsv")
    assert found.model.by == "distil"
    assert found.distil.pairs == (f"{Path.cwd()}/en-de.tsv",)
    assert (found.distil.teacher, found.train.image_tower) == ("some/german-bert", "efficientnet-lite0")
    Path("mine.toml").unlink()
    assert "--parallel: absent.tsv cannot be read" in told([*words, "absent.tsv"], code=1)
    assert "it needs --pairs" in told(["init", "mine", "--language", "de", "--parallel", "en-de.tsv"], code=1)
    assert not Path("mine.toml").exists()

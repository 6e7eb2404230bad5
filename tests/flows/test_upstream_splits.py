"""Splits that upstream states are kept where the recipe says so, are never ignored unasked, and share no image."""

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_catalog.database.catalog import query
from data_catalog.errors import InputError, PipelineError, SettingsError
from flows.build.execution import LocalExecutor
from flows.cli import main
from flows.dry_run import dry_run
from flows.jobs import BuildReport, build_dataset, require_ready
from flows.recipe.recipe import Recipe, load_recipe

# File name, what upstream calls its split, caption.
Row = tuple[str, str, str]

NOUNS = ("dog", "cat", "train", "kite", "flower", "bridge", "horse", "plane", "violin", "truck")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "grey")
UPSTREAM, HASH = 'split.by="upstream"', 'split.by="hash"'


def caption(number: int) -> str:
    """Captions of which no two are near each other."""
    noun, colour = NOUNS[number % len(NOUNS)], COLOURS[number // len(NOUNS) % len(COLOURS)]
    return f"A {colour} {noun} stands beside the other {number} of them"


def photo(seed: int) -> Image.Image:
    """Smooth noise: no two seeds look the same."""
    noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC)


def save(folder: Path, name: str, seed: int, *, quality: int = 95) -> None:
    folder.mkdir(exist_ok=True)
    photo(seed).save(folder / name, quality=quality)


def rows_of(splits: Sequence[str]) -> list[Row]:
    return [(f"{number}.jpg", split, caption(number)) for number, split in enumerate(splits)]


def pairs_source(folder: Path, name: str, rows: Sequence[Row], more: str = 'split_column = "split"') -> str:
    """TOML of a source of local pictures, which `photos` beside its table has."""
    lines = ["image\tsplit\tcaption", *("\t".join(row) for row in rows)]
    (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"""
        [sources.{name}]
        kind = "pairs"
        files = ["{folder}/{name}.tsv"]
        images = "{folder}/photos"
        path_column = "image"
        caption_column = "caption"
        lang = "en"
        {more}
        """


def recipe_of(folder: Path, sources: str, *overrides: str) -> Recipe:
    path = folder / "own.toml"
    path.write_text(f'target_language = "en"\n{sources}', encoding="utf-8")
    return load_recipe(str(path), root=folder / "catalog", overrides=overrides)


def build(folder: Path, sources: str, *overrides: str) -> BuildReport:
    with LocalExecutor() as executor:
        return build_dataset(recipe_of(folder, sources, *overrides), root=folder / "catalog", executor=executor)


def outcomes(folder: Path) -> dict[str, str]:
    """By caption, why it was dropped, or the split of its pair."""
    sql = """
        SELECT source_caption, coalesce(c.drop_reason, p.split) AS outcome FROM captions c
        LEFT JOIN (SELECT split, unnest(caption_ids) AS caption_id FROM pairs) p USING (caption_id)
    """
    return {row["source_caption"]: row["outcome"] for row in query(folder / "catalog", sql).to_pylist()}


def test_all_test_photographs_of_upstream_end_in_test_and_those_without_a_split_are_drawn(tmp_path: Path) -> None:
    rows = rows_of([*["test"] * 40, *["train"] * 20, *["dev"] * 10, *[""] * 10])
    for number in range(80):
        save(tmp_path / "photos", f"{number}.jpg", number)
    source = pairs_source(tmp_path, "own", rows)
    report = build(tmp_path, source, UPSTREAM, "split.val=0.5")
    assert "for which upstream states a split" in (report.snapshot.folder / "README.md").read_text("utf-8")
    found = outcomes(tmp_path)
    by_stated = {split: Counter(found[text] for _, said, text in rows if said == split) for _, split, _ in rows}
    drawn = by_stated.pop("")
    assert by_stated == {"test": {"test": 40}, "train": {"train": 20}, "dev": {"val": 10}}
    assert drawn.keys() == {"train", "val"}
    told = query(tmp_path / "catalog", "SELECT upstream_split, split, count(*) AS n FROM images GROUP BY ALL")
    assert {(row["upstream_split"], row["split"], row["n"]) for row in told.to_pylist()} == {
        *((split, split, n) for split, n in (("test", 40), ("train", 20), ("val", 10))),
        *((None, split, n) for split, n in drawn.items()),
    }
    build(tmp_path, source, HASH, "split.val=0.5")
    ignored = outcomes(tmp_path)
    assert set(ignored.values()) == {"train", "val"}
    assert all(ignored[text] == found[text] for _, said, text in rows if not said)


@pytest.mark.parametrize("split", ["", "test"])
def test_splits_of_upstream_are_scored_whatever_the_shares_of_others(tmp_path: Path, split: str) -> None:
    source = pairs_source(tmp_path, "own", rows_of(["test", "train"]))
    settings = ["split.val=0", "split.test=0", f'evaluate.split="{split}"']
    require_ready(recipe_of(tmp_path, source, UPSTREAM, *settings), tmp_path)
    with pytest.raises(PipelineError, match="nothing to score on"):
        require_ready(recipe_of(tmp_path, source, HASH, *settings), tmp_path)


NAMES = {
    "train": ("train", "Training", "restval", "TRAIN"),
    "val": ("val", "valid", "validation", "dev", " Development "),
    "test": ("test", "testing", "Test "),
}


def test_each_usual_name_of_a_split_is_that_split(tmp_path: Path) -> None:
    rows = rows_of([name for names in NAMES.values() for name in names])
    for name, _, _ in rows:
        save(tmp_path / "photos", name, int(name.partition(".")[0]))
    build(tmp_path, pairs_source(tmp_path, "own", rows), UPSTREAM, "split.test=0.4", "split.val=0.4")
    found = outcomes(tmp_path)
    assert {name: found[text] for _, name, text in rows} == {
        name: split for split, names in NAMES.items() for name in names
    }


def test_a_split_of_an_unknown_name_is_a_reason_to_drop_the_image_and_trains_nobody(tmp_path: Path) -> None:
    rows = [
        ("0.jpg", "train", caption(0)),
        ("1.jpg", "held-out", caption(1)),
        ("1.jpg", "train", caption(2)),
        ("1.jpg", "", caption(3)),
        ("2.jpg", "", caption(4)),
    ]
    for number in range(3):
        save(tmp_path / "photos", f"{number}.jpg", number)
    source = pairs_source(tmp_path, "own", rows)
    build(tmp_path, source, UPSTREAM, "split.val=0")
    assert outcomes(tmp_path) == {
        **dict.fromkeys((caption(0), caption(4)), "train"),
        **dict.fromkeys((caption(1), caption(2), caption(3)), "unknown_split"),
    }
    rejected = query(tmp_path / "catalog", "SELECT DISTINCT step, detail FROM rejects").to_pylist()
    assert [row["step"] for row in rejected] == ["ingest"]
    assert "'held-out'" in rejected[0]["detail"]
    [first] = query(tmp_path / "catalog", "SELECT read, kept FROM funnel WHERE step = 'ingest'").to_pylist()
    assert first == {"read": 5, "kept": 2}
    assert not dry_run(recipe_of(tmp_path, source, HASH), root=tmp_path / "catalog").dropped


def test_of_several_splits_stated_of_one_image_the_most_guarded_counts(tmp_path: Path) -> None:
    rows = [
        ("0.jpg", "train", caption(0)),
        ("0.jpg", "test", "x"),  # too short: dropped, and what it says of the image still counts
        ("1.jpg", "train", caption(1)),
        ("1.jpg", "dev", caption(2)),
        ("2.jpg", "", caption(3)),
        ("2.jpg", "test", caption(4)),
        ("2.jpg", "val", caption(5)),
    ]
    for number in range(3):
        save(tmp_path / "photos", f"{number}.jpg", number)
    build(tmp_path, pairs_source(tmp_path, "own", rows), UPSTREAM, "split.val=0")
    assert outcomes(tmp_path) == {
        caption(0): "test",
        "x": "caption_too_short",
        **dict.fromkeys((caption(1), caption(2)), "val"),
        **dict.fromkeys((caption(3), caption(4), caption(5)), "test"),
    }


@pytest.mark.parametrize(
    "settings",
    [
        ["split.val=0.9"],
        ["split.val=0", "split.test=0.99"],
        ["split.val=0", "duplicates.near_images=false", "duplicates.images=false"],
    ],
)
def test_no_copy_of_what_upstream_holds_out_is_in_another_split(tmp_path: Path, settings: list[str]) -> None:
    """Whatever source it comes from, whatever that says of it, and however its own split is drawn."""
    stated = ["test"] * 4 + ["val"] * 4
    others = ["train", "val", "", "", "train", "train", "", ""]
    official, copies = rows_of(stated), []
    for number, split in enumerate(others):
        save(tmp_path / "photos", f"{number}.jpg", number, quality=70)
        save(tmp_path / "photos", f"copy{number}.jpg", number, quality=95)  # the better copy, of the better source
        copies.append((f"copy{number}.jpg", split, caption(40 + number)))
    sources = pairs_source(tmp_path, "web", copies) + pairs_source(tmp_path, "official", official)
    build(tmp_path, sources, UPSTREAM, *settings)
    found = outcomes(tmp_path)
    assert [found[text] for _, _, text in official] == stated
    assert {found[text] for _, _, text in copies} == {"split_leak"}


def flickr8k(folder: Path) -> str:
    (folder / "Flickr8k.token.txt").write_text(
        "".join(f"{number}.jpg#0\t{caption(number)}\n" for number in range(6)), encoding="utf-8"
    )
    for split, names in (("train", "0.jpg\r\n"), ("dev", "1.jpg\n2.jpg\n"), ("test", "3.jpg \n4.jpg\n9.jpg")):
        (folder / f"Flickr_8k.{split}Images.txt").write_text(names, encoding="utf-8", newline="")
    return f'[sources.photos]\nkind = "flickr8k"\nfiles = ["{folder}/Flickr8k.token.txt"]\nimages = "{folder}/photos"\n'


def karpathy(folder: Path) -> str:
    images = [
        {"filename": f"{number}.jpg", "split": split, "sentences": [{"raw": caption(number), "sentid": number}]}
        for number, split in enumerate(("restval", "val", "val", "test", "test", ""))
    ]
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    return (
        f'[sources.photos]\nkind = "flickr30k"\nfiles = ["{folder}/dataset_flickr30k.json"]\n'
        f'images = "{folder}/photos"\n'
    )


def coco(folder: Path) -> str:
    splits = ("train2014", "val2014", "val2014", "test2015", "test2015", "")
    images = [
        {"id": number, "file_name": f"{number}.jpg", "coco_url": f"http://images.example.org/{split}/{number}.jpg"}
        for number, split in enumerate(splits)
    ]
    annotations = [{"id": number, "image_id": number, "caption": caption(number)} for number in range(6)]
    document = {"images": images, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(document), encoding="utf-8")
    return f'[sources.photos]\nkind = "mscoco"\nfiles = ["{folder}/captions.json"]\nimages = "{folder}/photos"\n'


def table(folder: Path) -> str:
    return pairs_source(folder, "photos", rows_of(("train", "dev", "validation", "test", "test", "")))


STATING = [flickr8k, karpathy, coco, table]


@pytest.mark.parametrize("source", STATING)
def test_every_source_that_states_splits_has_them_kept(tmp_path: Path, source: Callable[[Path], str]) -> None:
    for number in range(6):
        save(tmp_path / "photos", f"{number}.jpg", number)
    build(tmp_path, source(tmp_path), UPSTREAM, "split.val=0")
    found = outcomes(tmp_path)
    assert [found[caption(number)] for number in range(6)] == ["train", "val", "val", "test", "test", "train"]


@pytest.mark.parametrize("source", STATING)
def test_who_does_not_say_what_becomes_of_stated_splits_is_asked_before_work_starts(
    tmp_path: Path, source: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "photos", "0.jpg", 0)
    recipe = recipe_of(tmp_path, source(tmp_path))
    wanted = r'^source photos states splits: set \[split\] by = "upstream" to keep them, or "hash" to ignore them$'
    with pytest.raises(SettingsError, match=wanted):
        build(tmp_path, source(tmp_path))
    with pytest.raises(SettingsError, match=wanted):
        dry_run(recipe, root=tmp_path / "catalog")
    assert not list((tmp_path / "catalog").rglob("*.parquet"))
    assert main(["build", str(tmp_path / "own.toml"), "--root", str(tmp_path / "catalog"), "--executor", "local"]) == 1
    assert 'by = "upstream"' in capsys.readouterr().err
    assert not dry_run(recipe_of(tmp_path, source(tmp_path), HASH), root=tmp_path / "catalog").dropped


def test_all_sources_that_state_splits_are_named(tmp_path: Path) -> None:
    save(tmp_path / "photos", "0.jpg", 0)
    sources = (
        flickr8k(tmp_path)
        + pairs_source(tmp_path, "mine", rows_of(["x"]), more="")
        + coco(tmp_path).replace("sources.photos", "sources.coco")
    )
    with pytest.raises(SettingsError, match=r"^sources photos, coco state splits: say "):
        build(tmp_path, sources)


def test_who_wants_upstreams_splits_where_no_source_states_any_is_told(tmp_path: Path) -> None:
    save(tmp_path / "photos", "0.jpg", 0)
    source = pairs_source(tmp_path, "own", rows_of(["test"]), more="")
    with pytest.raises(SettingsError, match=r'^split.by is "upstream" and no source states splits: '):
        build(tmp_path, source, UPSTREAM)
    build(tmp_path, source)
    assert set(outcomes(tmp_path).values()) <= {"train", "val"}


def test_a_photograph_in_two_lists_is_an_error(tmp_path: Path) -> None:
    source = flickr8k(tmp_path)
    save(tmp_path / "photos", "0.jpg", 0)
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("0.jpg\n3.jpg\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"3\.jpg is in .*testImages\.txt and in .*trainImages\.txt"):
        build(tmp_path, source, UPSTREAM)


def test_another_list_is_another_dataset(tmp_path: Path) -> None:
    source = flickr8k(tmp_path)
    for number in range(6):
        save(tmp_path / "photos", f"{number}.jpg", number)
    build(tmp_path, source, UPSTREAM, "split.val=0")
    assert outcomes(tmp_path)[caption(5)] == "train"
    (tmp_path / "Flickr_8k.testImages.txt").write_text("3.jpg\n4.jpg\n5.jpg\n", encoding="utf-8")
    build(tmp_path, source, UPSTREAM, "split.val=0")
    assert outcomes(tmp_path)[caption(5)] == "test"


@pytest.mark.parametrize("by", ["upstream", "hash"])
def test_the_setting_is_the_same_in_toml_and_in_overrides(tmp_path: Path, by: str) -> None:
    source = pairs_source(tmp_path, "own", rows_of(["test"]))
    said = recipe_of(tmp_path, f'{source}\n[split]\nby = "{by}"\n')
    assert said.split == recipe_of(tmp_path, source, f"split.by={by}").split
    assert said.split.by == by
    with pytest.raises(SettingsError, match=r"split\.by must be \"upstream\" or \"hash\", got 'karpathy'"):
        recipe_of(tmp_path, source, "split.by=karpathy")


TWINS = ("2851198725_37b6027625.jpg", "3050606344_af711c726c.jpg")


@pytest.mark.real_data
def test_the_lists_of_flickr8k(shared_data: Path, tmp_path: Path) -> None:
    """Real photographs in their official splits; of two that are the same the one stays that is held out."""
    flickr = shared_data / "flickr8k_photos"
    lists = {name: (flickr / f"Flickr_8k.{name}Images.txt").read_text("utf-8").split() for name in ("train", "dev")}
    chosen = {"train": [*lists["train"][:30], TWINS[0]], "dev": lists["dev"][:30], "test": [TWINS[1]]}
    expected: Mapping[str, str] = {
        name: {"dev": "val"}.get(split, split) for split, names in chosen.items() for name in names
    }
    with zipfile.ZipFile(flickr / "images.zip") as images:
        images.extractall(tmp_path / "photos", list(expected))
    captions = (flickr / "Flickr8k.token.txt").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "Flickr8k.token.txt").write_text(
        "".join(line for line in captions if line.partition("#")[0] in expected), encoding="utf-8"
    )
    for split, names in {**lists, "test": chosen["test"]}.items():
        kept = [name for name in names if split == "test" or name not in chosen["test"]]
        (tmp_path / f"Flickr_8k.{split}Images.txt").write_text("\n".join(kept), encoding="utf-8")
    source = f'[sources.flickr8k]\nfiles = ["{tmp_path}/Flickr8k.token.txt"]\nimages = "{tmp_path}/photos"\n'
    build(tmp_path, source, UPSTREAM)
    rows = query(tmp_path / "catalog", "SELECT path, split, drop_reason FROM images").to_pylist()
    assert {row["path"]: row["split"] or row["drop_reason"] for row in rows} == {**expected, TWINS[0]: "split_leak"}

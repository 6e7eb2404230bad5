"""`vernaclip scoreboard`: a dataset's own split, test sets that were trained on, a protocol, baselines, wrong words."""

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.base.errors import InputError
from data_catalog.catalog.manifest import commit_snapshot, require_snapshot
from data_catalog.disk.files import sha256_of, write_json
from data_catalog.disk.records import write_checksummed
from flows.models import train_model
from training.data.pairs import pair_files
from training.exports.model_export import ModelExportConfig, export_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

IN_ITALIAN = ["scoreboard", "--language", "it"]
WITHOUT = shutil.ignore_patterns("work", "upstream")  # of copies of a root
CAPTIONS = ["Un cane corre sulla spiaggia", "Due gatti neri dormono sul divano", "Tre barche a vela", "Una mela rossa"]


@pytest.fixture(scope="module")
def trained(
    built: Any,
    english_recipe: Any,
    english_overrides: list[str],
    small_model: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[str]]:
    """A copy of the small sample with a model of one epoch, and what `scoreboard` is called with for it."""
    folder = tmp_path_factory.mktemp("scored")
    root = folder / "catalog"
    shutil.copytree(built[0], root)
    (folder / "small.json").write_text(small_model)
    more = [f"train.model={folder / 'small.json'}", "train.epochs=1", "train.vocab_size=400", "train.batch_size=16"]
    more += ["evaluate.split=val", "evaluate.bootstrap_rounds=50"]
    train_model(english_recipe(root, *more), root)
    overrides = [word for override in [*english_overrides, *more] for word in ("--set", override)]
    return root, ["scoreboard", "scenes", "--root", str(root), *overrides]


@pytest.fixture(scope="module")
def seen(built: Any) -> list[dict[str, Any]]:
    """What the model was trained on."""
    return [row for path in pair_files(built[1].snapshot).train for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def leaking(trained: tuple[Path, list[str]], seen: list[dict[str, Any]]) -> list[str]:
    """A test set of three pictures that were trained on, smaller and under other names, and three that nobody saw."""
    folder = trained[0].parent / "set"
    folder.mkdir()
    lines = ["image\tcaption"]
    for place, (row, colour) in enumerate(zip(seen, ("teal", "maroon", "olive"), strict=False)):
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            image.convert("RGB").resize((120, 120)).save(folder / f"seen{place}.jpg", quality=80)
        picture = Image.new("RGB", (90, 90), "white")
        picture.paste(colour, (5 + 20 * place, 10, 40 + 20 * place, 70 - 10 * place))
        picture.save(folder / f"new{place}.png")
        lines += [f"seen{place}.jpg\t{caption}" for caption in row["captions"]]
        lines.append(f"new{place}.png\ta {colour} block of {place}")
    (folder.parent / "set.tsv").write_text("\n".join(lines), "utf-8")
    columns = ["path_column=image", "caption_column=caption", f"images={folder}"]
    return ["--test-set", "held", "kind=pairs", f"files={folder.parent}/set.tsv", *columns]


def test_the_split_of_the_dataset_is_scored(trained: tuple[Path, list[str]], told: Any) -> None:
    root, call = trained
    out = told([*call, "--model", "again", f"folder={next((root / 'models' / 'scenes').glob('*/'))}"])
    for part in (
        "scenes val: text to image",
        "none of the images are among those that scenes was trained on, compared by sample id and bytes",
        "the epoch of the weights was chosen on these images",
        "all captions are native, or written or validated by people",
    ):
        assert part in out
    folder = root / "scoreboards" / "scenes"
    board = json.loads((folder / "scoreboard.json").read_text())
    first, second = board["models"]
    assert (first["name"], second["name"], len(first["tensors_sha256"])) == ("scenes", "again", 64)
    assert (first["tensors_sha256"], first["origin"]) == (second["tensors_sha256"], second["origin"])
    assert {row["value"] for row in board["rows"] if row["minus"] == "scenes"} == {0.0}
    answer = json.loads(told([*call, "--json"]))
    assert answer == {"folder": str(folder), **json.loads((folder / "scoreboard.json").read_text())}
    assert {path.name for path in folder.iterdir()} >= {"scoreboard.md", "scoreboard.png"}


def test_an_empty_split_is_left_out_and_no_board_is_overwritten_by_a_refusal(
    trained: tuple[Path, list[str]], leaking: list[str], tmp_path: Path, told: Any
) -> None:
    root = tmp_path / "catalog"
    shutil.copytree(trained[0], root, ignore=WITHOUT)
    manifest = dict(require_snapshot(root, "scenes").manifest)
    pairs = [entry for entry in manifest["files"]["pairs"] if entry["split"] != "test"]
    commit_snapshot(root, {**manifest, "files": {**manifest["files"], "pairs": pairs}})
    call = [*trained[1], "--root", str(root)]
    told(call)
    folder = root / "scoreboards" / "scenes"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    empty = [*call, "--set", "evaluate.split=test"]
    assert "there is nothing to score on" in told(empty, code=1)
    assert "3 of the 6 images of held are among those" in told([*empty, *leaking], code=1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    out = told([*empty, *leaking, "--report-anyway"])
    assert ("held: text to image" in out, "scenes test" in out) == (True, False)


def test_a_test_set_inside_the_training_set_is_refused_or_told(
    trained: tuple[Path, list[str]], leaking: list[str], told: Any
) -> None:
    root, call = trained
    call = [*call, "--no-split"]
    error = told([*call, *leaking], code=1)
    assert "3 of the 6 images of held are among those that scenes was trained on (seen0.jpg: the same picture" in error
    assert "--report-anyway" in error
    unseen = "none of the images are among those that scenes was trained on, compared by bytes\n"
    assert unseen in told([*call, *leaking, "--set", "leaks.by_pixels=false"])
    out = told([*call, *leaking, "--report-anyway"])
    assert "3 of the images are among those that scenes was trained on" in out
    board = json.loads((root / "scoreboards" / "scenes" / "scoreboard.json").read_text())
    scores = [row for row in board["rows"] if row["metric"] == "text_to_image_R@1"]
    assert {row["images"]: row["gallery"] for row in scores} == {"all": 6, "leak-free": 3}


def test_images_that_were_trained_on_are_known_by_their_bytes_and_addresses(
    trained: tuple[Path, list[str]], leaking: list[str], seen: list[dict[str, Any]], told: Any
) -> None:
    root, call = trained
    folder, hashes = root.parent, {row["sha256"] for row in seen}
    upstream = next(path for path in sorted(root.rglob("*.jpg")) if sha256_of(path) in hashes)
    shutil.copy(upstream, folder / "set" / "copied.jpg")
    url = next(row["url"] for row in seen if row["url"])
    for table, more, found in (
        ("image\tcaption\ncopied.jpg\tit\nnew0.png\tteal\n", "leaks.by_pixels=false", "copied.jpg: the same bytes as"),
        (f"image\turl\tcaption\nnew0.png\t{url}\tit\nnew1.png\t\tit\n", "url_column=url", "new0.png: url:127.0.0.1"),
    ):
        (folder / "other.tsv").write_text(table, "utf-8")
        words = [word.replace("set.tsv", "other.tsv") for word in leaking]
        words += ["--set", more] if "leaks" in more else [more]
        error = told([*call, "--no-split", *words], code=1)
        assert "1 of the 2 images of held are among those" in error
        assert f"({found}" in error


def test_a_model_is_known_by_its_folder_record_or_weights_also_as_exports_have_it(
    trained: tuple[Path, list[str]], leaking: list[str], tmp_path: Path, told: Any
) -> None:
    """Also after a newer model was trained."""
    root = tmp_path / "catalog"
    shutil.copytree(trained[0], root, ignore=WITHOUT)
    own, copy = next((root / "models" / "scenes").glob("*/")), tmp_path / "copy"
    shutil.copytree(own, copy)
    (copy / "model.safetensors").rename(copy / "open_clip_model.safetensors")
    newer = shutil.copytree(own, own.with_name("0" * 12))
    result = json.loads((newer / "result.json").read_text())
    write_json(newer / "result.json", {**result, "model_sha256": "0" * 64})
    (newer / "model.safetensors").write_bytes(b"")
    snapshot = require_snapshot(root, "scenes").snapshot
    write_checksummed(root / "models" / "scenes" / "current.json", {"model": newer.name, "snapshot": snapshot})
    config = ModelExportConfig(formats=("open_clip", "transformers"), name="it")
    export_model(own, config, tmp_path / "as", seen=None, root=root)
    exports = {kind: tmp_path / "as" / kind for kind in ("open_clip", "transformers")}
    call, here = [*IN_ITALIAN, *leaking, "--model"], ["--root", str(root)]

    def refused(*words: str, name: str = "mine") -> None:
        error = told([*call, *words], code=1)
        assert f"{name} was trained on (seen0.jpg: the same picture" in error

    refused(str(own), "--out", str(tmp_path / "alone"), name=own.name)
    refused("mine", f"open_clip={copy}", *here)
    told([*call, "mine", f"open_clip={exports['open_clip']}", *here, "--report-anyway"])
    board = root / "scoreboards" / "it" / "scoreboard.json"
    assert json.loads(board.read_text())["models"][0]["trained_on"] == f"scenes {snapshot}"
    for kind, export in exports.items():
        refused("mine", f"{kind}={export}", *here)
        (export / "run.json").unlink()  # as an earlier version exported it
        refused("mine", f"{kind}={export}", *here)
    (exports["open_clip"] / "export.json").unlink()
    refused("mine", f"open_clip={exports['open_clip']}", *here)  # by its weights
    shutil.rmtree(root / "models")
    out = told([*call, "mine", f"transformers={exports['transformers']}", *here])
    assert "it is not known if mine was trained on any of the images" in out


def as_dataset(root: Path, name: str, splits: Mapping[str, str]) -> None:
    """The images of the sample as another dataset, with other splits; those that are not named are left out."""
    snapshot = require_snapshot(root, "scenes")
    pairs = [entry for entry in snapshot.manifest["files"]["pairs"] if entry["split"] in splits]
    files = {**snapshot.manifest["files"], "pairs": [{**entry, "split": splits[entry["split"]]} for entry in pairs]}
    shutil.copytree(snapshot.folder, root / "datasets" / name / ("0" * 12))
    commit_snapshot(root, {**snapshot.manifest, "dataset": name, "snapshot": "0" * 12, "files": files})


def test_what_the_start_of_a_model_has_learned_counts_too(
    trained: tuple[Path, list[str]], english_recipe: Any, english_overrides: list[str], tmp_path: Path, told: Any
) -> None:
    """The start has also learned from images that are gone. A twin of its dataset makes its own val split no other."""
    root = tmp_path / "catalog"
    shutil.copytree(trained[0], root, ignore=WITHOUT)
    start = next((root / "models" / "scenes").glob("*/"))
    run = json.loads((start / "run.json").read_text())
    write_json(start / "run.json", {**run, "learned": [*run["learned"], "0" * 64]})
    as_dataset(root, "a-twin", {"train": "train", "val": "val"})
    told([*trained[1], "--root", str(root)])
    as_dataset(root, "swapped", {"train": "val", "val": "train"})
    as_dataset(root, "other", {"val": "train", "test": "test"})
    as_dataset(root, "third", {"train": "test"})
    more = ["train.vocab_size=400", "train.epochs=1", "train.batch_size=4", "train.frozen_epochs=0"]
    starts = [[f"train.model={start}"], [f"train.model={root.parent / 'small.json'}", f"train.image_weights={start}"]]
    shutil.copy(trained[0].parent / "small.json", root.parent)
    for settings in starts:
        with pytest.raises(InputError, match=r"was trained on \d+ images of the val and test splits of swapped"):
            train_model(english_recipe(root, *settings, *more, "name=swapped"), root)
    other = train_model(english_recipe(root, *starts[1], *more, "name=other"), root).folder
    whole = json.loads((start / "run.json").read_text())["learned"]
    assert set(json.loads((other / "run.json").read_text())["learned"]) > set(whole), "its own images, and the start's"

    def call(name: str) -> list[str]:
        overrides = [word for each in [*english_overrides, f"name={name}"] for word in ("--set", each)]
        return ["scoreboard", "scenes", "--root", str(root), *overrides, "--model", "mine", f"folder={other}"]

    assert "images of third test are among those that mine was trained on" in told(call("third"), code=1)
    assert "it is not known if mine was trained on any of the images" in told(call("other"))
    assert "it is not known if mine was trained on others of the images" in told([*call("third"), "--report-anyway"])
    write_json(start / "run.json", {name: value for name, value in run.items() if name != "learned"})
    for settings in starts:
        with pytest.raises(InputError, match="of an earlier version, train again"):
            train_model(english_recipe(root, *settings, *more, "name=other"), root)


def test_pictures_in_tars_and_tables_score_as_those_of_a_folder(random_clip: Any, tmp_path: Path, told: Any) -> None:
    """The files of three sets state the same captions of the same pictures; one picture of each is broken."""
    rows = []
    for number in range(12):
        buffer = io.BytesIO()
        Image.frombytes("RGB", (4, 3), Random(number).randbytes(36)).resize((64, 48)).save(buffer, "PNG")
        raw = buffer.getvalue()[: 60 if number == 7 else None]
        rows.append((f"{number:02d}", raw, [f"{CAPTIONS[number % 4]} {number}", f"{CAPTIONS[number % 3]} di sera"]))
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key, raw, captions in rows:
            (tmp_path / "set" / f"{key}.png").write_bytes(raw)
            for name, content in ((f"{key}.png", raw), (f"{key}.json", json.dumps({"captions": captions}).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    lines = [json.dumps({"image": f"{key}.png", "captions": captions}) for key, _, captions in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8")
    images = [{"bytes": raw, "path": f"{key}.png"} for key, raw, _ in rows]
    pq.write_table(pa.table({"image": images, "captions": [row[2] for row in rows]}), tmp_path / "a.parquet")
    sets = {
        "pairs": ("a.jsonl", "path_column=image", "caption_column=captions", f"images={tmp_path}/set"),
        "webdataset": ("a.tar", "caption_key=captions"),
        "huggingface": ("a.parquet", "caption_column=captions"),
    }
    call = [*IN_ITALIAN, "--model", "random", f"folder={random_clip(CAPTIONS)}", "--out", str(tmp_path / "out")]
    for kind, (file, *settings) in sets.items():
        call += ["--test-set", kind, f"kind={kind}", f"files={tmp_path / file}", "captions_by=human", *settings]
    told(call)
    board = json.loads((tmp_path / "out" / "scoreboard.json").read_text())
    scores: dict[str, list[Any]] = {kind: [] for kind in sets}
    for row in board["rows"]:
        scores[row.pop("test_set")].append(row)
    assert scores["pairs"] == scores["webdataset"] == scores["huggingface"]
    first = next(row for row in scores["pairs"] if row["metric"] == "text_to_image_R@1")
    assert (first["gallery"], first["queries"], first["left_out"]) == (11, 22, 2)
    assert 0 < first["value"] < 1


@pytest.mark.slow
@pytest.mark.real_data
def test_the_protocol_of_clip_italian(random_clip: Any, tmp_path: Path, told: Any, shared_data: Path) -> None:
    """MSCOCO-IT's development set, with a generated picture in the place of each of its images."""
    file = shared_data / "mscoco_it" / "captions_ita_devset_unvalidated.json.gz"
    images = tmp_path / "images"
    images.mkdir()
    for number, image in enumerate(json.loads(gzip.decompress(file.read_bytes()))["images"]):
        colour = (number * 37 % 256, number * 91 % 256, number % 256)
        picture = Image.new("RGB", (32, 32), colour)
        picture.paste((255 - colour[0], number // 7 % 256, 90), (number % 20, number % 17, 24, 24))
        picture.save(images / image["file_name"], "JPEG")
    call = [*IN_ITALIAN, "--model", "random", f"folder={random_clip(CAPTIONS)}", "--out", str(tmp_path / "out")]
    call += ["--set", "evaluate.bootstrap_rounds=50", "--set", "evaluate.batch_size=512", "--protocol", "clip-italian"]
    out = told([*call, f"captions={file}", f"images={images}"])
    for part in ("  1,696 images, 8,486 captions", "are translated by a machine", "CLIP-Italian (published)  0.3797"):
        assert part in out
    row = next(line.split() for line in out.splitlines() if line.startswith("all       all     random"))
    assert row[-2:] == ["1,696", "8,486"]
    assert float(row[3]) < 0.005  # of pictures that show nothing of the captions
    validated = shared_data / "mscoco_it" / "captions_ita_devset_validated.json.gz"
    error = told([*call, f"captions={validated}", f"images={images}"], code=1)
    assert "has 1,696 images and 8,486 captions, but these files have 308 images and 1,541 captions" in error


def test_imagenet_by_the_protocol_wants_a_thousand_classes(
    random_clip: Any, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        folder = tmp_path / "val" / f"n{number}"
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 40), (80 * number, 0, 0)).save(folder / "a.png")
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"imagenet1k": ["uno", "due", "tre"], "pets": ["x"]}))
    model = ["--model", "random", f"folder={random_clip(CAPTIONS)}"]
    call = [*IN_ITALIAN, *model, "--out", str(tmp_path / "out")]
    protocol = ["--protocol", "clip-italian", f"imagenet={tmp_path / 'val'}", f"class_names={names}"]
    assert "has 1,000 classes, but these files have 3 classes" in told([*call, *protocol], code=1)
    folders = ["--test-set", "three", "kind=folders", f"images={tmp_path / 'val'}", f"class_names={names}"]
    out = told([*call, *folders, "class_names_key=imagenet1k"])
    assert "three: zero-shot classification" in out
    assert "templates" in out  # of the Italian language pack, beside the bare one
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = [*call, *folders[:3], "images=~/val", "class_names=~/names.json", "class_names_key=imagenet1k"]
    assert "three: zero-shot classification" in told(at_home)


def test_an_english_model_is_asked_as_it_is_and_in_translation(
    random_clip: Any, leaking: list[str], tmp_path: Path, told: Any
) -> None:
    source = f"open_clip={random_clip(CAPTIONS)}"
    models = ["--model", "english", source, "--model", "translated", source, "engine=command", "command=cat"]
    told(["scoreboard", "--language", "it", *models, *leaking, "--out", str(tmp_path / "out")])
    board = json.loads((tmp_path / "out" / "scoreboard.json").read_text())
    assert [model["name"] for model in board["models"]] == ["english", "translated"]
    assert [model["trained_on"] for model in board["models"]] == ["unknown"] * 2


B32 = "open_clip=ViT-B-32/openai"
ONE_MODEL = [*IN_ITALIAN, "--model", "x", B32]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["scoreboard"], "--language must name the language"),
        (IN_ITALIAN, "there is no model to score"),
        ([*IN_ITALIAN, "--model", "x", "folder=/gone"], "folder=/gone is neither a model folder"),
        ([*IN_ITALIAN, "--model", "x", B32, "folder=b"], "name the model by one of"),
        ([*ONE_MODEL, "--model", "x", "open_clip=ViT-B-16/openai"], "--model x is given twice"),
        ([*ONE_MODEL, "beam=2"], "unknown key translate.beam"),
        ([*IN_ITALIAN, "--set", "train.lr=1"], "unknown key evaluate.train"),
        (["scoreboard", "scenes", "--language", "de"], "which is it in the recipe"),
        (ONE_MODEL, "nothing to score on"),
        ([*ONE_MODEL, "--protocol", "clip-italian"], "takes captions=FILE images=DIR"),
        ([*ONE_MODEL, "--test-set", "y", "kind=coco", "files=gone"], "it has no images=..."),
        ([*ONE_MODEL, "--test-set", "y", "kind=tables"], "use one of coco, crossmodal3600, flickr30k"),
    ],
)
def test_wrong_words_are_refused(words: list[str], error: str, tmp_path: Path, told: Any) -> None:
    assert error in told([*words, "--root", str(tmp_path)], code=1)

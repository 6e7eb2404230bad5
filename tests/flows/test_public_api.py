"""The package `vernaclip`: its examples run, its dataset is what was published, and it heeds take-downs."""

import doctest
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient
from PIL import Image, ImageCms
from torch.utils.data import DataLoader, Subset

import vernaclip
from data_catalog.base.errors import DamagedError, InputError, PipelineError, SettingsError
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.manifest import require_snapshot
from data_catalog.sample.grammar import write_pairs
from flows.cli import main
from flows.datasets import BuildReport
from flows.recipe.recipe import find_recipe, override_values

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CHECKOUT = Path(__file__).parents[2]
MODULES = ("vernaclip", *(f"vernaclip.{name}" for name in ("catalog", "dataset", "jobs", "model")))
SMALL = [
    *('name="scenes"', "train.model=small.json", "train.steps=3", "train.vocab_size=400", "train.batch_size=16"),
    *("evaluate.split=val", "evaluate.bootstrap_rounds=50", "align.epochs=2"),
]


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    new = {
        name: merged(values.get(name, {}), each) if isinstance(each, dict) else each for name, each in changes.items()
    }
    return {**values, **new}


def toml(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{" + ", ".join(f"{json.dumps(name)} = {toml(each)}" for name, each in value.items()) + "}"


@pytest.fixture(scope="module")
def home(
    built: tuple[Path, BuildReport],
    english_overrides: list[str],
    random_clip: Callable[..., Path],
    small_model: str,
    small_bert: Callable[[str], Path],
    timm_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder as the examples have it: a catalog, a recipe, a model, a photograph, a package."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(built[0], folder / "catalog")
    rebuild(folder / "catalog")  # its views name files by their absolute paths
    path = find_recipe("scenes")
    values = tomllib.loads(path.read_text("utf-8").replace("{recipe}", str(path.parent)))
    small = merged(values, override_values([*english_overrides, *SMALL]))
    (folder / "scenes.toml").write_text("\n".join(f"{name} = {toml(value)}" for name, value in small.items()), "utf-8")
    (folder / "small.json").write_text(small_model, "utf-8")
    (folder / "scenes-en_it.argosmodel").symlink_to(path.parents[1] / "packages" / "scenes-en_it.argosmodel")
    shutil.copytree(random_clip(["a red circle", "two blue stars"]), folder / "model")
    shutil.copytree(small_bert("a red blue star stars circle circles square two above"), folder / "bert")
    shutil.copy(timm_weights, folder / "tower.safetensors")
    write_pairs(folder / "captions.tsv", seed=1, num_pairs=60)
    Image.radial_gradient("L").save(folder / "photo.jpg")
    Image.linear_gradient("L").save(folder / "other.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        vernaclip.train("scenes.toml", "catalog")
    return folder


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture
def own_root(home: Path, tmp_path: Path) -> Path:
    """A copy of the catalog, which a test may change."""
    shutil.copytree(home / "catalog", tmp_path / "catalog")
    return tmp_path / "catalog"


EXAMPLES = [test for name in MODULES for test in doctest.DocTestFinder().find(import_module(name)) if test.examples]


@pytest.mark.parametrize("example", [pytest.param(test, id=test.name) for test in EXAMPLES])
def test_the_examples_run(example: doctest.DocTest) -> None:
    told: list[str] = []
    found = doctest.DocTestRunner().run(example, out=told.append, clear_globs=False)
    assert found.failed == 0, "".join(told)
    assert found.attempted == len(example.examples)


def test_the_page_of_examples_runs(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block after the other, as a reader would paste them."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    rebuild(Path("catalog"))
    page = (CHECKOUT / "docs" / "use.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/use.md", "exec"), names)
    assert names["texts"]


@pytest.mark.slow
def test_the_notebook_runs(built: tuple[Path, BuildReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("VERNACLIP_ROOT", str(built[0]))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # see `prepare_for_torch`
    notebook = nbformat.read(CHECKOUT / "docs" / "notebooks" / "first-steps.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "kept as it was written"
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    last = [(cell["source"].splitlines()[-1], cell["outputs"][-1]) for cell in cells if cell["outputs"]]
    shown = {line: output["data"] for line, output in last if "data" in output}
    losses = json.loads(shown["losses"]["text/plain"])
    assert len(losses) == 10
    assert all(0 < loss < 10 for loss in losses)
    assert "image/png" in shown["image"]
    assert "deduplicate" in shown["funnel.to_pandas()"]["text/plain"]
    assert shown["longest.fetchall()"]["text/plain"].count("('") == 3


def test_everything_public_has_an_example_and_a_place() -> None:
    shown = {test.name.rpartition(".")[2] for test in EXAMPLES}
    assert {name for name in vernaclip.__all__ if name[0].islower()} <= shown
    assert all(getattr(vernaclip, name) for name in vernaclip.__all__)
    assert set(vernaclip.__all__) <= set(dir(vernaclip))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vernaclip.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_onnx_runtime_does_not_report_to_its_maker_unless_the_user_wants_it() -> None:
    code = "import os, translation.engines.argos; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for theirs, found in ((None, "1"), ("0", "0")):
        environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        environment |= {} if theirs is None else {"ORT_DISABLE_TELEMETRY": theirs}
        told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert told.stdout.strip() == found


def test_importing_it_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import vernaclip; print(sorted(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert "vernaclip" in found.stdout
    assert not [name for name in ("torch", "pyarrow", "numpy", "duckdb", "flows", "training") if name in found.stdout]


@pytest.mark.parametrize("split", [None, "val", "marked"])
def test_a_dataset_is_what_was_published(split: str | None) -> None:
    snapshot = require_snapshot(Path("catalog"), "scenes")
    splits = [split] if split else ["train", "val", "test"]
    rows = [row for name in splits for path in snapshot.pair_files(name) for row in pq.read_table(path).to_pylist()]
    pairs = vernaclip.open_dataset("catalog", "scenes", split)
    assert len(pairs) == len(rows) == pairs.arrow().count_rows()
    assert [pair.captions for pair in pairs] == [row["captions"] for row in rows]
    assert [image.size for image, _ in pairs] == [(row["width"], row["height"]) for row in rows]
    facts = [pairs.metadata(index) for index in range(len(pairs))]
    assert facts == [{name: row[name] for name in row if name not in ("image", "original")} for row in rows]
    assert pairs.arrow().to_table(columns=["sample_id"])["sample_id"].to_pylist() == [row["sample_id"] for row in rows]
    with pytest.raises(IndexError, match="out of range"):
        pairs[len(rows)]
    if rows:
        assert pairs[-1].captions == rows[-1]["captions"]
    assert vernaclip.open_dataset("catalog", "scenes", snapshot=pairs.snapshot[:6]).snapshot == pairs.snapshot


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_loader_read_the_same_in_any_order_and_from_a_part(start: str) -> None:
    pairs = vernaclip.open_dataset("catalog", "scenes", "train")
    pairs[0]
    packed = pickle.dumps(pairs)
    assert len(packed) < 20_000
    assert pickle.loads(packed)[0].captions == pairs[0].captions
    loader = DataLoader(pairs, batch_size=40, num_workers=1, collate_fn=list, multiprocessing_context=start)
    found = [pair for batch in loader for pair in batch]
    assert [pair.captions for pair in found] == [pair.captions for pair in pairs]
    assert all(one.image.tobytes() == other.image.tobytes() for one, other in zip(found, pairs, strict=True))
    indices = [5, 0, len(pairs) - 1, 5]
    expected = [pairs[index].captions for index in indices]
    assert [pair.captions for pair in pairs.__getitems__(indices)] == expected
    [batch] = DataLoader(Subset(pairs, indices), batch_size=4, collate_fn=list)
    assert [pair.captions for pair in batch] == expected


def test_what_is_not_there_is_said() -> None:
    for given, told in (
        ({"name": "nothing"}, "has no dataset 'nothing'"),
        ({"name": "scenes", "split": "dev"}, "there is no split 'dev'"),
        ({"name": "scenes", "snapshot": "ffffffff"}, "holds no snapshot ffffffff"),
        ({"name": "scenes", "root": "elsewhere"}, "run `vernaclip build RECIPE --root elsewhere` first"),
    ):
        with pytest.raises(PipelineError, match=told):
            vernaclip.open_dataset(**{"root": "catalog", **given})


def test_a_damaged_shard_is_told(own_root: Path) -> None:
    pairs = vernaclip.open_dataset(own_root, "scenes", "train")
    path = require_snapshot(own_root, "scenes").pair_files("train")[0]
    path.write_bytes(path.read_bytes()[:-9] + bytes(9))
    with pytest.raises(DamagedError, match="run `vernaclip verify`"):
        list(pairs)


def test_after_a_take_down_nothing_of_it_is_handed_out(own_root: Path) -> None:
    pairs = vernaclip.open_dataset(own_root, "scenes", "train")
    gone = str(pairs.metadata(0)["sample_id"])
    words = ["forget", "--root", str(own_root), "--sample", gone]
    assert main([*words[:-1], "scenes:nothing-of-that-name"]) == 0
    assert pairs.metadata(0)["sample_id"] == gone  # something else was taken down
    assert main(words) == 0
    for ask in (lambda: pairs[0], lambda: pairs.metadata(0), pairs.arrow):
        with pytest.raises(DamagedError, match="open the dataset again"):
            ask()
    again = vernaclip.open_dataset(own_root, "scenes", "train")
    assert gone not in again.arrow().to_table(columns=["sample_id"])["sample_id"].to_pylist()
    assert again.duckdb().sql("SELECT 1 FROM pairs WHERE sample_id = $id", {"id": gone}).num_rows == 0


def test_while_a_take_down_is_unfinished_nothing_is_handed_out(own_root: Path, child: Callable[..., Any]) -> None:
    pairs = vernaclip.open_dataset(own_root, "scenes", "train")
    words = ["forget", "--root", str(own_root), "--sample", str(pairs.metadata(0)["sample_id"])]
    with child(words, "atomic.after_rename=kill", cwd=CHECKOUT) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    asked: list[Callable[[], Any]] = [
        lambda: pairs[0],
        pairs.arrow,
        lambda: pairs.duckdb().sql("FROM pairs"),
        lambda: vernaclip.open_dataset(own_root, "scenes"),
        lambda: vernaclip.score("scenes.toml", own_root),
    ]
    for ask in asked:
        with pytest.raises(DamagedError, match="run `vernaclip forget"):
            ask()


def test_a_question_changes_nothing(home: Path) -> None:
    before = sorted(home.iterdir())
    catalog = vernaclip.open_dataset("catalog", "scenes").duckdb()
    for question in ("COPY (SELECT 1) TO 'x.csv'", "SET threads = 1"):
        with pytest.raises(SettingsError, match="DuckDB refuses"), catalog.batches(question) as batches:
            list(batches)
    assert sorted(home.iterdir()) == before


def test_images_are_encoded_alike_however_they_are_given(tmp_path: Path) -> None:
    """Also sideways ones, those in deep grey, and those in other colour spaces."""
    model, texts = vernaclip.open_model("model"), ["a red circle", "two blue stars"]
    bands, tag = [Image.effect_noise((60, 40), 30 * band) for band in (1, 2, 3)], Image.Exif()
    upright = Image.merge("RGB", bands)
    tag[0x0112] = 6  # to be turned by 90 degrees clockwise
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"none").replace(b"bXYZ", b"rXYZ").replace(b"none", b"bXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "own.png": (upright, {}),
        "sideways.png": (upright.transpose(Image.Transpose.ROTATE_90), {"exif": tag}),
        "deep.png": (Image.fromarray(np.asarray(bands[2]).astype(np.uint16) * 256), {}),
        "swapped.png": (upright, {"icc_profile": swapped}),
        "half.png": (Image.merge("RGBA", (*bands, bands[2])), {"icc_profile": swapped}),
    }
    rows = {}
    for name, (image, options) in pictures.items():
        image.save(tmp_path / name, **options)
        with Image.open(tmp_path / name) as opened:
            rows[name], from_file = model.encode_images([opened, str(tmp_path / name)])
        np.testing.assert_allclose(rows[name], from_file, atol=1e-5, err_msg=name)
    found = model.encode_images([upright, "photo.jpg"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose([rows["own.png"], rows["sideways.png"]], [found[0], found[0]], atol=1e-5)
    assert np.abs(found[1] - found[0]).max() > 0.01
    cosines = model.similarity([upright, "photo.jpg"], texts)
    np.testing.assert_allclose(cosines, found @ model.encode_texts(texts).T, atol=1e-5)
    assert model.similarity([], ["a"]).shape == (0, 1)
    assert len(model.encode_images([])) == len(model.encode_texts([])) == 0


def test_what_a_model_cannot_encode_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = vernaclip.open_model("model")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    for path in (tmp_path / "broken.jpg", tmp_path / "absent.jpg"):
        with pytest.raises(InputError, match=f"{path.name} cannot be read as an image"):
            model.encode_images(["photo.jpg", path])
    (tmp_path / "cut.jpg").write_bytes(Path("photo.jpg").read_bytes()[:900])
    with Image.open(tmp_path / "cut.jpg") as cut, pytest.raises(InputError, match="does not decode"):
        model.encode_images([cut])
    for odd, problem in (((9, 9), "does not decode"), ((0, 9), "has no pixels")):
        with pytest.raises(InputError, match=problem):
            model.encode_images([Image.new("La", odd)])
    with pytest.raises(InputError, match="has pixels without an agreed range"):
        model.encode_images([Image.fromarray(np.full((9, 9), 70_000, np.int32))])
    with pytest.raises(SettingsError, match="a text is empty"):
        model.encode_texts(["a red circle", " "])
    with pytest.raises(InputError, match="contains no model"):
        vernaclip.open_model(tmp_path)
    model.encode_texts(["a red circle " * 40])
    assert "its end is cut off" in caplog.text


def test_one_item_is_not_taken_for_a_list(tmp_path: Path) -> None:
    model = vernaclip.open_model("model")
    engine = {"package": "scenes-en_it.argosmodel"}
    into: Any = {"source": "en", "target": "it", "settings": engine, "memory": tmp_path / "m"}
    for call, item in (
        (lambda: vernaclip.translate("two red stars", **into), "text"),
        (lambda: vernaclip.translate(["a"], language_packs="la.toml", **into), "language pack"),
        (lambda: model.encode_texts("gatto"), "text"),
        (lambda: model.encode_images("photo.jpg"), "image"),
        (lambda: model.encode_images(Path("photo.jpg")), "image"),  # type: ignore[arg-type]
        (lambda: model.encode_images(Image.new("RGB", (9, 9))), "image"),  # type: ignore[arg-type]
        (lambda: model.similarity("photo.jpg", []), "image"),
        (lambda: model.similarity([], "gatto"), "text"),
    ):
        with pytest.raises(SettingsError, match=f"give a list of {item}s, not one {item}$"):
            call()
    assert not (tmp_path / "m").exists()


def test_settings_are_those_of_the_recipe() -> None:
    for call, told in (
        (lambda: vernaclip.train("scenes.toml", "catalog", settings={"train": {"step": 1}}), r"train\.step"),
        (lambda: vernaclip.score("scenes.toml", "catalog", settings={"evaluate.split": "all"}), r"evaluate\.split"),
        (lambda: vernaclip.build("unheard", "catalog"), "there is no recipe 'unheard'"),
        (lambda: vernaclip.translate(["a"], "en", "it", settings={"beam": 2}), r"translate\.beam"),
    ):
        with pytest.raises(SettingsError, match=told):
            call()
    other = vernaclip.train("scenes.toml", "catalog", settings={"train.seed": 5, "train.augment": ["contrast"]})
    assert (other.folder / "result.json").is_file()


MODULE, INSTALLED = [sys.executable, "-m", "vernaclip"], [str(Path(sys.executable).with_name("vernaclip"))]


@pytest.mark.parametrize(("command", "is_on_path"), [(MODULE, False), (MODULE, True), (INSTALLED, False)], ids=range(3))
def test_folders_of_the_users_own_are_not_taken_for_ours(command: list[str], is_on_path: bool, tmp_path: Path) -> None:
    for name in ("training", "flows", "cleaning", "translation", "data_catalog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')", "utf-8")
    places = [str(tmp_path), str(CHECKOUT)] if is_on_path else [str(CHECKOUT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    found = subprocess.run([*command, "recipes"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert "scenes" in found.stdout


@pytest.mark.slower
def test_the_command_aligns_and_distils_an_encoder(home: Path, own_root: Path, told: Any) -> None:
    towers = {"image_tower": "test_efficientnet", "image_weights": f"{home}/tower.safetensors"}
    towers |= {"text_encoder": f"{home}/bert"}
    settings = [word for name, value in towers.items() for word in ("--set", f'train.{name}="{value}"')]
    words = ["scenes.toml", "--root", str(own_root), "--executor", "local", *settings]

    def folder_of(output: str) -> Path:
        return Path(next(line for line in output.splitlines() if line.startswith("Model: "))[7:])

    assert "validation MRR@10" in told(["align", *words])
    # A recipe that says so is aligned by `train` too, into the same folder.
    refit = ["--set", "align.refit=true"]
    folder = folder_of(told(["align", *words, *refit]))
    assert folder_of(told(["train", *words, *refit, "--set", "model.by=align"])) == folder
    listed = [row for row in json.loads(told(["models", "--root", str(own_root), "--json"])) if row["snapshot"]]
    assert len(listed) > 2, "also models that are not the newest know their snapshot"
    assert "align.refit" in told(["evaluate", *words[:5], "--set", "evaluate.split=val"], code=1)
    # A student of the encoder, too; what it learned from and is made of is that of both.
    sentences = [f"{number} red stars above a blue {name}\t{number} {name}" for number in range(40) for name in "ab"]
    (own_root / "sentences.tsv").write_text("\n".join(sentences), "utf-8")
    lesson = {"teacher": f"{home}/bert", "pairs": [str(own_root / "sentences.tsv")], "student": "tiny", "epochs": 1}
    lesson |= {"num_held_out": 5, "check_languages": False}
    more = [word for name, value in lesson.items() for word in ("--set", f"distil.{name}={json.dumps(value)}")]
    more += ["--set", "model.by=distil", "--set", 'source_language="it"']
    for license in ("", "mit"):
        folder = folder_of(told(["train", *words, *more, "--set", f"train.image_license={json.dumps(license)}"]))
        made = json.loads((folder / "run.json").read_text("utf-8"))
        assert made["settings"]["distil"]["pairs"] == 75
        assert made["settings"]["distil"]["teacher"].startswith("bert-")
        borrowed = [(weights["weights"], weights["license"]) for weights in made["borrowed"]]
        assert borrowed == [("tower.safetensors", license)]
    told(["verify", "--root", str(own_root)])
    told(["evaluate", *words[:5], "--set", "evaluate.split=val"])


def test_the_command_distils_from_files_without_a_dataset(home: Path, tmp_path: Path, told: Any) -> None:
    pairs = tmp_path / "scenes.tsv"
    write_pairs(pairs, seed=1, num_pairs=80)
    columns = zip(*(line.split("\t") for line in pairs.read_text("utf-8").splitlines()), strict=True)
    english, italian = map(list, columns)
    (tmp_path / "train.en").write_text("".join(f"{line}\n" for line in english), "utf-8")
    (tmp_path / "train.it").write_text("".join(f"{line}\n" for line in italian), "utf-8")
    (tmp_path / "test.txt").write_text(f"{italian[3].upper()}\n", "utf-8")
    (tmp_path / "more.txt").write_text(f"una luna verde\n\n{italian[3]}\n", "utf-8")
    values = {"teacher": f"{home}/model", "pairs": ["train.{lang}"], "leave_out": ["test.txt"], "student": "tiny"}
    values["unpaired"] = ["more.txt"]
    recipe = {"target_language": "it", "distil": values | {"epochs": 1, "num_held_out": 5}}
    (tmp_path / "mine.toml").write_text("\n".join(f"{name} = {toml(value)}" for name, value in recipe.items()), "utf-8")
    place = [str(tmp_path / "mine.toml"), "--root", str(tmp_path / "root"), "--executor", "local"]
    command = ["distil", *place]
    assert "left_out" in told(command)
    (folder,) = (tmp_path / "root" / "models" / "mine").glob("*/model.safetensors")
    assert len(vernaclip.open_model(folder.parent).encode_texts(["una stella rossa"])) == 1
    assert "distil tiny" in told(["models", "--root", str(tmp_path / "root")])
    assert "no dataset to build" in told(["build", *place], code=1)
    swapped = ["--set", f'distil.pairs=["{pairs}"]', "--set", 'source_language="it"']
    for changes, expected in (
        (["--set", "distil.pairs=[]"], "distil.pairs"),
        (["--set", 'target_language="en"'], "source_language is en and target_language en"),
        (["--set", 'target_language="de"'], "cannot be read"),
        ([*swapped, "--set", 'target_language="en"'], "swap"),
        (["--set", f'distil.leave_out=["{tmp_path}/none.txt"]'], "distil.leave_out"),
    ):
        assert expected in told([*command, *changes], code=1)
    (tmp_path / "train.it").write_text("".join(f"{line}\n" for line in italian[1:]), "utf-8")
    assert "they are not aligned" in told(command, code=1)

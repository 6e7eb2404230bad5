"""`vernaclip init`: what it finds in somebody's files, what it writes, and that this builds as it stands."""

import csv
import io
import json
import random
import shlex
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.catalog.export_formats import ExportConfig
from data_catalog.catalog.manifest import require_snapshot
from data_catalog.catalog.query import query
from data_catalog.exports.export import export_snapshot
from data_catalog.sources.pairs import PairsConfig
from data_catalog.sources.pixels import HuggingFaceConfig, WebDatasetConfig
from flows.build.execution import LocalExecutor
from flows.cli import main
from flows.cli.app import parse
from flows.datasets import build_dataset
from flows.first_recipe import FirstRecipe, write_first_recipe
from flows.recipe.language_packs import load_language_pack
from flows.recipe.recipe import Recipe, load_recipe

pytestmark = pytest.mark.usefixtures("quick_builds")
NUM_IMAGES = 12
CAPTIONS = (
    "Рудий кіт спить на старому дивані",
    "Дві дівчинки грають у м'яч біля школи",
    "Червоний трамвай їде вулицею міста",
    "Кошик зі стиглими яблуками на столі",
    "Чорний собака біжить по снігу",
    "Соняшник.",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a folder of twelve images and none of Argos Translate's packages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("ARGOS_PACKAGES_DIR", raising=False)
    Path("photos").mkdir()
    for number in range(NUM_IMAGES):
        noise = random.Random(number).randbytes(96 * 96 * 3)
        Image.frombytes("RGB", (96, 96), noise).save(f"photos/{number}.png")
    return tmp_path


def name(number: int) -> str:
    return f"{number}.png"


def caption(number: int) -> str:
    """A caption of each image, no two the same."""
    return CAPTIONS[number % len(CAPTIONS)].replace(" на ", f" {number} на ").replace(" біля ", f" {number} біля ")


def table(path: str, *columns: tuple[str, Callable[[int], str]], num_rows: int = NUM_IMAGES) -> str:
    """Write a CSV file of columns, each with what makes its cells; return its path."""
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([head for head, _ in columns])
        writer.writerows([cell(number) for _, cell in columns] for number in range(num_rows))
    return path


def own(path: str = "captions.csv") -> str:
    return table(path, ("image", name), ("caption", caption))


def recipe(started: FirstRecipe) -> Recipe:
    return load_recipe(str(started.files[0]), root=Path("catalog"))


def source(started: FirstRecipe) -> PairsConfig:
    config = recipe(started).sources[0].config
    assert isinstance(config, PairsConfig)
    return config


def test_own_pairs_become_a_recipe_that_builds(told: Any) -> None:
    own()
    out = told(["init", "garden", "--language", "uk", "--pairs", "captions.csv", "--images", "photos"])
    for part in (
        "12 rows: 12 captions of 12 images",
        "12 of 12 are in photos",
        "of 12 captions, 12 may be Ukrainian (uk); 2 of 12 are a single word",
        "captions that consist mostly of names are not dropped",
    ):
        assert part in out
    assert "mt install" not in out, "native captions need no translation"
    assert load_language_pack("uk.toml").name == "Ukrainian"
    made = load_recipe("garden.toml", root=Path("catalog"))
    assert (made.name, made.target_language, made.language_pack is None) == ("garden", "uk", False)
    with LocalExecutor() as executor:
        build_dataset(made, root=Path("catalog"), executor=executor)
    kept = query(Path("catalog"), "SELECT count(*) AS n FROM captions WHERE outcome = 'kept'").to_pylist()
    assert kept == [{"n": NUM_IMAGES}]
    for kind in ("huggingface", "webdataset"):
        report = export_snapshot(require_snapshot(Path("catalog"), "garden"), ExportConfig(format=kind), Path(kind))
        assert (sum(report.images.values()), report.withheld) == (NUM_IMAGES, []), "one's own photographs are exported"


def test_a_build_of_images_beside_their_recipe_is_done_until_an_image_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run keeps its state in that folder, a search its features, and who trains edits the recipe."""
    monkeypatch.chdir("photos")
    started = write_first_recipe("garden", "uk", pairs=own())
    beside = [Path(".vernaclip", "prefect.db"), Path(".vernaclip", "logs", "server.log"), Path(".DS_Store")]

    def is_done() -> bool:
        for path in beside:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(random.randbytes(8))
        with LocalExecutor() as executor:
            return build_dataset(recipe(started), root=Path("catalog"), executor=executor).up_to_date

    assert not is_done()
    garden = Path("garden.toml")
    garden.write_text(garden.read_text("utf-8") + "\n# my own\n", "utf-8")
    assert is_done()
    shutil.copy("1.png", "0.png")
    assert not is_done()


Columns = Sequence[tuple[str, Callable[[int], str]]]
COLUMNS: dict[str, tuple[Columns, dict[str, str | None], str]] = {
    "the language tells captions from originals": (
        [("english", lambda n: f"A red cat sleeps on the old sofa {n}"), ("file", name), ("ukrainian", caption)],
        {"path_column": "file", "caption_column": "ukrainian", "lang": "uk"},
        'doubtful  column "english" may also contain captions',
    ),
    "facts beside captions": (
        [
            *(
                ("id", str),
                (" photo", lambda n: f" {name(n)}"),
                ("alt", caption),
                ("caption", caption),
                ("lang", lambda n: "uk"),
            ),
            *(("Photographer", lambda n: "Олена Коваль"), ("licence", lambda n: "CC BY 4.0")),
            ("split", lambda n: ("train", "dev", "test")[n % 3]),
        ],
        {
            "path_column": "photo",
            "caption_column": "caption",
            "license_column": "licence",
            "attribution_column": "Photographer",
            "lang_column": "lang",
            "split_column": "split",
        },
        'splits    column "split": train 4, val 4, test 4; kept',
    ),
    "files that are there go before others": (
        [("thumbnail", lambda n: f"small/{n}.png"), ("original", name), ("caption", caption)],
        {"path_column": "original"},
        'column "thumbnail" may also name images',
    ),
    "captions that are surely in another language are translated": (
        [("image", name), ("caption", lambda n: f"A brown dog runs along the beach beside {n} children")],
        {"caption_column": "caption", "lang": "en"},
        "may be Ukrainian (uk), 12 are certainly in another language: en 12",
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_are_told_by_what_they_hold(case: str) -> None:
    columns, expected, told = COLUMNS[case]
    started = write_first_recipe("mine", "uk", pairs=table("mine.csv", *columns), images="photos")
    found = source(started)
    assert {column: getattr(found, column) for column in expected} == expected
    assert told in started.found
    assert ("exports will contain the images" in started.found) is (found.license_column is None)
    is_translated = found.lang == "en"
    assert ("mt install --from en --to uk" in started.commands) is is_translated
    assert any(trait.topic == "translation" for trait in started.lacking) is is_translated
    assert recipe(started).split.by == ("upstream" if found.split_column else "hash")


def test_what_is_doubtful_missing_or_unfit_is_told_before_a_build() -> None:
    table("web.csv", ("url", lambda n: f"https://photos.example.org/{n}.jpg"), ("caption", caption))
    started = write_first_recipe("web", "uk", pairs="web.csv")
    assert (source(started).url_column, source(started).images) == ("url", None)
    assert "1 host (photos.example.org 12)" in started.found
    started = write_first_recipe("mine", "ru", pairs=own(), images="photos")
    assert 'column "caption" seems to be in uk: is --language ru right?' in started.found
    Path("photos/0.png").unlink()
    Image.new("RGB", (20, 20), "red").save("photos/1.png")
    table("mine.csv", ("image", name), ("caption", lambda n: "" if n == 2 else caption(n)))
    told = write_first_recipe("other", "uk", pairs="mine.csv", images="photos").found
    assert "12 rows: 11 captions of 11 images; 1 are not pairs and will be rejected: caption_missing 1" in told
    for part in ("10 of 11 are in photos", "missing: 0.png", "a build will drop too_small 1"):
        assert part in told


def test_a_few_captions_that_are_not_utf_8_are_told_of_and_the_others_suffice() -> None:
    Path(own("latin.csv")).write_bytes(Path(own()).read_bytes() + "1.png,Un jardín\n".encode("latin-1"))
    told = write_first_recipe("mine", "uk", pairs="latin.csv", images="photos").found
    assert "1 are not pairs and will be rejected: bad_encoding 1" in told


@pytest.mark.parametrize(
    ("num_images", "train", "split"),
    [
        (12, {"batch_size": 4, "steps": 144}, (0.0, 0.2)),  # 60 times 9.6 images
        (200, {"batch_size": 32, "steps": 338}, (0.0, 0.1)),
        (3_000, {"batch_size": 128, "steps": 0, "epochs": 41, "patience": 5}, (0.1, 0.1)),
        (6_000, {"batch_size": 128, "epochs": 19}, (0.08, 0.08)),
    ],
)
def test_settings_suit_the_number_of_images(num_images: int, train: dict[str, int], split: tuple[float, float]) -> None:
    table(
        "mine.csv",
        ("url", lambda n: f"https://photos.example.org/{n}.jpg"),
        ("caption", lambda n: f"Чорний собака біжить по снігу {n}"),
        num_rows=num_images,
    )
    made = recipe(write_first_recipe("mine", "uk", pairs="mine.csv"))
    assert {setting: getattr(made.train, setting) for setting in train} == train
    assert (made.split.val, made.split.test) == split
    assert made.clean.min_words == made.check.min_words == 2


def test_without_pairs_public_sources_are_translated() -> None:
    started = write_first_recipe("public", "uk")
    made = recipe(started)
    assert [each.name for each in made.sources] == ["wit", "mscoco", "cc3m"]
    assert made.sources[0].config.languages == ("uk",)
    assert [trait.topic for trait in started.lacking[:2]] == ["translation", "proper nouns"], "what matters comes first"
    commands = [line.partition("  #")[0].strip() for line in started.commands.splitlines()]
    assert {"vernaclip download", "vernaclip mt install --from en --to uk"} <= set(commands)
    assert all(parse(shlex.split(command)[1:]).is_command for command in commands)


def test_a_pack_that_ships_or_is_there_is_used_and_one_that_is_written_has_a_name_of_its_own() -> None:
    assert recipe(write_first_recipe("one", "it")).language_pack is None
    assert not Path("it.toml").exists()
    Path("uk.toml").write_text('code = "uk"\nfunction_words = ["на", "у"]\n', encoding="utf-8")
    started = write_first_recipe("two", "uk")
    assert started.files == [Path("two.toml")]
    assert "proper nouns" not in {trait.topic for trait in started.lacking}
    started = write_first_recipe("sw", "sw")
    assert started.files == [Path("sw.toml"), Path("sw-language.toml")]
    assert load_language_pack("sw-language.toml").code == "sw"


def tars(pattern: str, count: int, json_of: Callable[[int], dict[str, Any]], text_of: Any = caption) -> None:
    """Write tars of a pattern with a number, which share the images."""
    for shard in range(count):
        with tarfile.open(pattern.format(shard), "w") as packed:
            for number in range(shard, NUM_IMAGES, count):
                parts = {"png": Path(f"photos/{number}.png").read_bytes(), "json": json.dumps(json_of(number)).encode()}
                for suffix, content in (parts | ({"txt": text_of(number).encode()} if text_of else {})).items():
                    member = tarfile.TarInfo(f"{number:05d}.{suffix}")
                    member.size = len(content)
                    packed.addfile(member, io.BytesIO(content))


def build_of(started: FirstRecipe) -> list[dict[str, Any]]:
    with LocalExecutor() as executor:
        build_dataset(recipe(started), root=Path("catalog"), executor=executor)
    sql = "SELECT url, source_caption, outcome FROM captions ORDER BY source_caption"
    found: list[dict[str, Any]] = query(Path("catalog"), sql).to_pylist()
    return found


def test_shards_of_images_become_a_recipe_that_builds() -> None:
    """As img2dataset writes them: captions in KEY.txt, once more in KEY.json, and failures without an image."""
    Path("shards").mkdir()
    tars(
        "shards/cc-{:05d}.tar",
        3,
        lambda n: {"url": f"https://example.org/{n}.png", "caption": caption(n), "status": "success", "width": 96},
    )
    started = write_first_recipe("shards", "uk", webdataset="shards/cc-{00000..00002}.tar")
    config = recipe(started).sources[0].config
    assert isinstance(config, WebDatasetConfig)
    assert (config.files, config.caption_key, config.url_key) == ((str(Path.cwd() / "shards/cc-*.tar"),), None, None)
    for part in ("12 rows: 12 captions of 12 images", "test: 12 of 12 decoded", "KEY.txt", "12 may be Ukrainian"):
        assert part in started.found
    assert "doubtful" not in started.found
    assert "exports will contain" not in started.found, "they are from the web, under licenses of their own"
    rows = build_of(started)
    assert [row["outcome"] for row in rows] == ["kept"] * NUM_IMAGES
    assert {row["url"] for row in rows} == {f"https://example.org/{n}.png" for n in range(NUM_IMAGES)}


def test_keys_are_found_by_what_they_hold_and_doubts_are_told() -> None:
    def record(number: int) -> dict[str, Any]:
        english = f"A brown dog runs along the beach beside {number} children"
        facts = {"Licence": "CC BY 4.0", "author": "Олена Коваль", "fold": ("train", "dev")[number % 2]}
        return {"alt": english, "text": caption(number), "image_url": f"https://example.org/{number}"} | facts

    tars("one-{}.tar", 2, record, text_of=None)
    started = write_first_recipe("keys", "uk", webdataset="one-{0,1}.tar")
    config = recipe(started).sources[0].config
    keys = ("caption", "url", "license", "attribution", "split", "lang", "page")
    expected = ["text", "image_url", "Licence", "author", "fold", None, None]
    assert [getattr(config, f"{key}_key") for key in keys] == expected
    assert 'doubtful  key "alt" may also contain captions: if so, change caption_key' in started.found
    assert 'splits    key "fold": train 6, val 6; kept' in started.found
    # The word "success" alone would be identified as Italian.
    english = "A brown dog runs along the beach beside {} children"
    tars(
        "english-{}.tar", 1, lambda n: {"status": "success", "exif": '{"Image Make": "Canon"}'}, text_of=english.format
    )
    started = write_first_recipe("english", "it", webdataset="english-0.tar")
    config = recipe(started).sources[0].config
    assert (config.caption_key, config.lang) == (None, "en")
    assert "doubtful" not in started.found
    assert "mt install --from en --to it" in started.commands


def test_a_folder_of_datasets_becomes_a_recipe_that_builds() -> None:
    photos = [Path(f"photos/{number}.png").read_bytes() for number in range(NUM_IMAGES)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    Path("hub/data").mkdir(parents=True)
    for split, numbers in {"train": range(8), "validation": range(8, NUM_IMAGES)}.items():
        columns = {
            "img": pa.array([{"bytes": photos[number], "path": name(number)} for number in numbers], kind),
            "mask": pa.array([{"bytes": photos[0], "path": None} for _ in numbers], kind),
            "texts": [[caption(number), f"{caption(number)} та друзі"] for number in numbers],
            "id": [str(number) for number in numbers],
        }
        pq.write_table(pa.table(columns), f"hub/data/{split}-00000-of-00001.parquet")
    started = write_first_recipe("hub", "uk", huggingface="hub")
    config = recipe(started).sources[0].config
    assert isinstance(config, HuggingFaceConfig)
    assert (config.files, config.image_column, config.caption_column) == ((str(Path.cwd() / "hub"),), "img", "texts")
    for part in (
        "24 rows: 24 captions of 12 images",
        "names of the files: train 16, val 8; kept",
        '"mask" also contains',
    ):
        assert part in started.found
    assert "exports will contain the images" not in started.found  # others may have collected them
    assert {row["outcome"] for row in build_of(started)} == {"kept"}


FILES = {
    "there.toml": b"mine",
    "sw.toml": b'code = "sv"',
    "sq.toml": b'target_language = "sq"',
    "own.csv": b"image,caption\n0.png,A cat\n",
    "semicolons.csv": b"image;caption\n0.png;A cat\n",
    "cp1251.csv": "image,caption\n0.png,Кіт спить\n".encode("cp1251"),
    "headless.csv": "0.png,Кіт спить на дивані\n1.png,Собака біжить по снігу\n".encode(),
    "urls.csv": "url,caption\nhttps://example.org/0,Кіт спить на дивані\n".encode(),
}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("a/b --language uk", "SettingsError: name must consist of letters"),
        ("there --language uk", "SettingsError: there.toml exists and is not overwritten"),
        ("x --language ukrainian", "takes an ISO 639 code such as el"),
        ("x --language sq", "sq.toml exists and is not a language pack for sq"),
        ("x --language sw", "sw.toml exists and is not a language pack for sw: it is one for sv: move it away"),
        ("x --language uk --images photos", "SettingsError: --images needs --pairs"),
        ("x --language uk --pairs a.csv --webdataset b.tar", "--pairs and --webdataset exclude each other"),
        ("x --language uk --webdataset b-{00..03}.tar", "InputError: --webdataset: b-00.tar does not exist"),
        ("x --language uk --webdataset own.csv", "InputError: --webdataset: own.csv cannot be read"),
        ("x --language uk --huggingface own.csv", "InputError: --huggingface: own.csv"),
        ("x --language uk --pairs no.csv", "InputError: --pairs: no.csv does not exist"),
        ("semicolons.csv", "has no column of images, only image;caption: it needs one of file names"),
        ("cp1251.csv", "is not UTF-8 (line 2): save it as UTF-8"),
        ("own.csv", "none of 1 image, such as 0.png, is in .: use --images DIR"),
        ("headless.csv", "InputError: --pairs: headless.csv has no header line (its first one names 0.png): add"),
        ("urls.csv", '--images is for file names, but the column "url" contains URLs: leave --images out'),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    words: str, error: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, content in FILES.items():
        Path(path).write_bytes(content)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if " " not in words:
        words = f"x --language uk --pairs {words} --images {'.' if words == 'own.csv' else 'photos'}"
    assert main(["init", *words.split(), "--debug"]) == 1
    assert error in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_recipe_keeps_the_letters_of_columns_that_a_terminal_does_not_show() -> None:
    pairs = table("soft.csv", ("image", name), ("cap\xadtion", caption))
    started = write_first_recipe("soft", "uk", pairs=pairs, images="photos")
    assert recipe(started).sources[0].config.caption_column == "cap\xadtion"

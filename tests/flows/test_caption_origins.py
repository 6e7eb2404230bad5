"""Every place that shows captions says who made them: a person, or a translator, human or machine, ours or others'."""

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.database.catalog import query
from data_catalog.errors import SettingsError
from data_catalog.storage.manifest import require_snapshot
from flows.cli import main
from flows.recipe.recipe import load_recipe
from training.exports.model_card import data_section, training_data
from training.scores.galleries import pairs_gallery

Capture = pytest.CaptureFixture[str]

RECIPE = """
name = "origini"
target_language = "it"

[sources.foto]
kind = "pairs"
files = ["{recipe}/foto.csv"]
caption_column = "caption"
path_column = "image"
images = "{recipe}/images"
lang = "it"

[sources.tradotte]
kind = "pairs"
files = ["{recipe}/tradotte.csv"]
caption_column = "caption"
path_column = "image"
images = "{recipe}/images"
lang = "it"
origin = "human_translation"
translator = "Anna B."
source_caption_column = "original"
source_lang = "en"

[sources.mscoco_it]
files = ["{recipe}/captions_ita_*.json.gz"]
images = "{recipe}/images"

[sources.forme]
kind = "pairs"
files = ["{recipe}/forme.csv"]
caption_column = "caption"
path_column = "image"
images = "{recipe}/images"
lang = "en"

[translate]
package = PACKAGE

[split]
by = "hash"
"""

NATIVE = ["Un cane nero corre sulla spiaggia", "Due bambini giocano nel parco con la palla"]
# Caption, its original, and why it goes, if it does: what is measured of our translations is of others' as well.
TRANSLATED = [
    ("Un gatto dorme sul divano rosso", "A cat is sleeping on the red sofa", None),
    ("Un uomo pulisce la finestra &amp; sorride", "A man cleans the window and smiles", None),
    ("Tre cavalli bevono l'acqua del fiume", "Some horses drink the water of the river in 1998", "numbers_lost"),
    ("Una barca a vela esce dal porto", "", None),
]
VALIDATED, UNVALIDATED = "Una donna legge un libro seduta in treno", "Segno giallo lungo una piccola strada della città"
ENGLISH = ["There are two red circles on a blue background", "a green star to the left of a yellow square"]


def write_csv(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.write_text("".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in rows), encoding="utf-8")


def write_coco(path: Path, number: int, caption: str) -> None:
    image = {"id": number, "file_name": f"{number}.png"}
    annotation = {"id": number, "image_id": number, "caption": caption}
    path.write_bytes(gzip.compress(json.dumps({"images": [image], "annotations": [annotation]}).encode()))


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with sources of every origin, and their files."""
    folder = tmp_path_factory.mktemp("origins")
    (folder / "images").mkdir()
    for number in range(12):
        noise = random.Random(number).randbytes(128 * 128 * 3)
        Image.frombytes("RGB", (128, 128), noise).save(folder / "images" / f"{number}.png")
    write_csv(folder / "foto.csv", [("image", "caption"), *((f"{n}.png", text) for n, text in enumerate(NATIVE))])
    rows = [(f"{number}.png", *row[:2]) for number, row in enumerate(TRANSLATED, start=2)]
    write_csv(folder / "tradotte.csv", [("image", "caption", "original"), *rows])
    write_coco(folder / "captions_ita_devset_validated.json.gz", 6, VALIDATED)
    write_coco(folder / "captions_ita_trainingset_train2014.json.gz", 7, UNVALIDATED)
    rows = [(f"{number}.png", text) for number, text in enumerate(ENGLISH, start=8)]
    write_csv(folder / "forme.csv", [("image", "caption"), *rows])
    (package,) = load_recipe("scenes", root=folder).translate.package
    (folder / "origini.toml").write_text(RECIPE.replace("PACKAGE", json.dumps(package)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def root(upstream: Path) -> Path:
    """A root in which the recipe was built."""
    options = ["--executor", "local", "--set", "split.val=0", "--set", "clean.language_check=false"]
    assert main(["build", str(upstream / "origini.toml"), "--root", str(upstream / "root"), *options]) == 0
    return upstream / "root"


def rows(root: Path, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = query(root, sql).to_pylist()
    return found


def ours(root: Path) -> str:
    """The fingerprint of the engine."""
    found: str = rows(root, "SELECT translator FROM builds")[0]["translator"]
    return found


def test_every_caption_says_who_made_it(root: Path) -> None:
    found = rows(root, "SELECT source, upstream_file, origin, translator FROM captions")
    assert ours(root).startswith("argos:en-it:")
    assert {(row["source"], row["origin"], row["translator"]) for row in found} == {
        ("foto", "native", "native"),
        ("tradotte", "human_translation", "Anna B."),
        ("mscoco_it", "machine_translation_corrected", "Bing"),
        ("mscoco_it", "machine_translation", "Bing"),
        ("forme", "machine_translation", ours(root)),
    }
    (corrected,) = [row for row in found if row["origin"] == "machine_translation_corrected"]
    assert corrected["upstream_file"] == "captions_ita_devset_validated.json.gz"


def test_translations_of_others_stand_beside_their_originals_and_are_judged_by_them(root: Path) -> None:
    found = rows(root, "SELECT * FROM captions WHERE source = 'tradotte' ORDER BY upstream_line")
    assert [(row["source_caption"], row["source_lang"], row["drop_reason"]) for row in found] == [
        (original or caption, "en" if original else "it", reason) for caption, original, reason in TRANSLATED
    ]
    assert [row["caption"] for row in found] == [caption.replace("&amp;", "&") for caption, _, _ in TRANSLATED]
    assert [row["length_ratio"] is not None for row in found] == [True, True, True, False]
    alone = rows(root, "SELECT DISTINCT length_ratio, copied_share FROM captions WHERE source IN ('foto', 'mscoco_it')")
    assert alone == [{"length_ratio": None, "copied_share": None}], "there is nothing to compare them with"


def test_published_pairs_have_an_origin_a_caption(root: Path) -> None:
    kept = rows(
        root, "SELECT source, origin, count(*) AS n FROM captions WHERE outcome = 'kept' GROUP BY ALL ORDER BY ALL"
    )
    listed = rows(
        root,
        "SELECT source, origin, count(*) AS n FROM (SELECT source, unnest(origins) AS origin FROM pairs) "
        "GROUP BY ALL ORDER BY ALL",
    )
    assert kept == listed
    assert {row["origin"] for row in listed} == {
        *("native", "human_translation", "machine_translation", "machine_translation_corrected")
    }


def test_the_view_of_translators_tells_ours_from_upstreams(root: Path) -> None:
    found = rows(root, "SELECT translator, origin, num_captions FROM translators ORDER BY ALL")
    assert [tuple(row.values()) for row in found] == sorted(
        [
            ("Anna B.", "human_translation", 1),  # its source is in no other language
            ("Anna B.", "human_translation", 3),
            ("Bing", "machine_translation", 1),
            ("Bing", "machine_translation_corrected", 1),
            (ours(root), "machine_translation", 2),
            ("native", "native", 2),
        ]
    )


def test_cards_count_what_machines_and_people_translated(root: Path) -> None:
    """Ten captions were read, of which one is dropped: 2 native, 3 by a translator, 4 by machines."""
    told = "machine translation made 4 (44.4%), of which people corrected 1. People translated 3."
    folder = require_snapshot(root, "origini").folder
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"Of 9 captions, {told}" in card
    assert "it | translated by a machine and corrected by people | Bing | 1 |" in card
    assert "`origins`" in card
    model = data_section(training_data(require_snapshot(root, "origini")))
    assert f"Of 9 training captions, {told}" in model


def test_croissant_has_the_column(root: Path) -> None:
    croissant = json.loads((require_snapshot(root, "origini").folder / "croissant.json").read_text(encoding="utf-8"))
    fields = {field["name"]: field for field in croissant["recordSet"][0]["field"]}
    assert "machine_translation_corrected" in fields["origins"]["description"]
    assert fields["origins"]["repeated"] is True


def test_the_report_says_who_made_the_captions(root: Path) -> None:
    page = (root / "datasets" / "origini" / "report.html").read_text(encoding="utf-8")
    text = re.sub(" ([.,])", r"\1", " ".join(re.sub("<[^>]*>", " ", page).split()))
    assert (
        "2 were translated from English, 7 were in Italian already. "
        "Origins of the captions that were in Italian already: 3 translated by people, 2 native, "
        "1 translated by a machine, 1 translated by a machine and corrected by people."
    ) in text
    assert "Bing translated by a machine – 1 1" in text
    assert "Anna B. from English" in text


def test_why_tells_origin_and_translator(root: Path, capsys: Capture) -> None:
    (row,) = rows(root, "SELECT caption_id FROM captions WHERE origin = 'machine_translation_corrected'")
    capsys.readouterr()
    assert main(["why", row["caption_id"], "--root", str(root)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert {"origin: machine_translation_corrected", "translator: Bing"} <= set(lines)


def test_an_audit_draws_what_stands_beside_its_original(root: Path, tmp_path: Path) -> None:
    assert main(["audit", "draw", "origini", "--root", str(root), "--out", str(tmp_path / "audit")]) == 0
    (sheet,) = (tmp_path / "audit").rglob("*.csv")
    text = sheet.read_text(encoding="utf-8")
    assert TRANSLATED[0][0] in text
    assert not any(caption in text for caption in (VALIDATED, UNVALIDATED, *NATIVE, TRANSLATED[3][0]))


def test_a_scoreboard_tells_human_captions_from_machine_ones(root: Path) -> None:
    gallery = pairs_gallery("origini:train", require_snapshot(root, "origini").pair_files("train"))
    makers = dict(zip(gallery.captions, gallery.made_by, strict=True))
    assert {makers[text] for text in (*NATIVE, TRANSLATED[0][0], VALIDATED)} == {"human"}
    assert makers[UNVALIDATED] == "machine"
    assert sorted(makers.values()) == ["human"] * 6 + ["machine"] * 3


def test_an_export_has_the_column_and_a_card_that_counts_it(root: Path, tmp_path: Path) -> None:
    options = ["--format", "huggingface", "--pixels", "all", "--out", str(tmp_path / "out")]
    assert main(["export", "origini", "--root", str(root), *options]) == 0
    exported = sorted((tmp_path / "out").rglob("*.parquet"))
    origins = [name for path in exported for names in pq.read_table(path)["origins"].to_pylist() for name in names]
    assert origins.count("human_translation") == 3
    assert "machine translation made 4 (44.4%)" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"origin": "machine"}, "did you mean machine_translation?"),
        ({"origin": "human"}, "did you mean human_translation?"),
        ({"origin": "x"}, "native, human_translation, machine_translation or machine_translation_corrected"),
        ({"translator": "Anna B."}, "translator"),
        ({"origin": "native", "translator": "Anna B."}, "translator"),
        ({"origin": "human_translation", "translator": "Native"}, "marks captions without a translator"),
        ({"source_caption_column": "original", "source_lang": "en"}, "origin"),
        ({"source_caption_column": "original", "origin": "human_translation"}, "source_lang"),
        ({"source_lang": "en", "origin": "human_translation"}, "source_caption_column"),
        ({"source_caption_column": "original", "source_lang": "it", "origin": "human_translation"}, "source_lang"),
        (
            {
                "source_caption_column": "original",
                "source_lang": "en",
                "lang_column": "l",
                "origin": "human_translation",
            },
            "lang_column",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_a_sentence(
    upstream: Path, settings: dict[str, str], said: str
) -> None:
    overrides = [f'sources.foto.{name}="{value}"' for name, value in settings.items()]
    with pytest.raises(SettingsError, match=re.escape(said)) as error:
        load_recipe(str(upstream / "origini.toml"), root=upstream, overrides=overrides)
    assert "sources.foto" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_originals_of_captions_that_are_translated_themselves_are_refused(
    upstream: Path, tmp_path: Path, capsys: Capture, more: list[str]
) -> None:
    settings = [f'sources.tradotte.{name}="{value}"' for name, value in (("lang", "fr"), ("source_lang", "en"))]
    options = ["--executor", "local", *(argument for setting in settings for argument in ("--set", setting))]
    assert main(["build", str(upstream / "origini.toml"), "--root", str(tmp_path), *options, *more]) == 1
    assert "source_caption_column is only for captions in it" in capsys.readouterr().err


def test_a_recipe_can_say_what_file_names_do_not(upstream: Path, root: Path) -> None:
    options = ["--executor", "local", "--set", "name=ridetto", "--set", "sources.foto.enabled=false"]
    options += ["--set", 'sources.mscoco_it.origin="human_translation"', "--set", "sources.tradotte.enabled=false"]
    assert main(["build", str(upstream / "origini.toml"), "--root", str(root), *options, "--set", "split.val=0"]) == 0
    found = rows(
        root, "SELECT DISTINCT origin, translator FROM captions WHERE dataset = 'ridetto' AND source = 'mscoco_it'"
    )
    assert found == [{"origin": "human_translation", "translator": None}]

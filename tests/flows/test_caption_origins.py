"""Every place that shows captions says who made them: a person, or a translator, human or machine, ours or others'."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import PipelineError, SettingsError
from data_catalog.disk.files import write_json
from data_catalog.disk.records import write_checksummed
from data_catalog.report.page import write_report
from flows.cli import main
from flows.dry_run import dry_run
from flows.models import distil_model
from flows.recipe.recipe import load_recipe
from flows.sentences import sentence_pairs
from training.data.pairs import pair_files

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


def write_coco(path: Path, number: int, caption: str) -> None:
    image = {"id": number, "file_name": f"{number}.png"}
    annotation = {"id": number, "image_id": number, "caption": caption}
    path.write_bytes(gzip.compress(json.dumps({"images": [image], "annotations": [annotation]}).encode()))


@pytest.fixture(scope="module")
def folder(own_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder of one's own, and what is built from sources of every origin."""
    own = own_folder(tmp_path_factory.mktemp("origins"))
    for number in range(10):
        own.save(f"{number}.png", number)
    write_coco(own.folder / "captions_ita_devset_validated.json.gz", 6, VALIDATED)
    write_coco(own.folder / "captions_ita_trainingset_train2014.json.gz", 7, UNVALIDATED)
    (package,) = load_recipe("scenes", root=own.folder).translate.package
    native = [(f"{number}.png", text) for number, text in enumerate(NATIVE)]
    rows = [(f"{number}.png", *row[:2]) for number, row in enumerate(TRANSLATED, start=2)]
    made = {"origin": "human_translation", "translator": "Anna B.", "source_lang": "en"}
    english = [(f"{number}.png", text) for number, text in enumerate(ENGLISH, start=8)]
    own.toml = "".join(
        [
            f'target_language = "it"\nsplit.by = "hash"\ntranslate.package = {json.dumps(package)}\n',
            own.source("foto", "path caption", native, lang="it"),
            own.source("tradotte", "path caption source_caption", rows, lang="it", **made),
            f'[sources.mscoco_it]\nfiles = ["{{recipe}}/captions_ita_*.json.gz"]\nimages = "{own.photos}"\n',
            own.source("forme", "path caption", english),
        ]
    )
    own.snapshot = own.build(own.toml, "split.val=0", "clean.language_check=false", name="origini").snapshot
    own.engine = own.rows("SELECT translator FROM builds")[0]["translator"]
    return own


def test_every_caption_says_who_made_it(folder: Any) -> None:
    found = folder.rows("SELECT source, upstream_file, origin, translator FROM captions")
    assert folder.engine.startswith("argos:en-it:")
    assert {(row["source"], row["origin"], row["translator"]) for row in found} == {
        ("foto", "native", "native"),
        ("tradotte", "human_translation", "Anna B."),
        ("mscoco_it", "machine_translation_corrected", "Bing"),
        ("mscoco_it", "machine_translation", "Bing"),
        ("forme", "machine_translation", folder.engine),
    }
    (corrected,) = [row for row in found if row["origin"] == "machine_translation_corrected"]
    assert corrected["upstream_file"] == "captions_ita_devset_validated.json.gz"
    counted = "SELECT source, origin, count(*) AS n FROM {} GROUP BY ALL ORDER BY ALL"
    published = folder.rows(counted.format("(SELECT source, unnest(origins) AS origin FROM pairs)"))
    assert published == folder.rows(counted.format("captions WHERE outcome = 'kept'"))
    told = folder.rows("SELECT translator, origin, num_captions FROM translators ORDER BY ALL")
    assert [tuple(row.values()) for row in told] == sorted(
        [
            ("Anna B.", "human_translation", 1),  # its source is in no other language
            ("Anna B.", "human_translation", 3),
            ("Bing", "machine_translation", 1),
            ("Bing", "machine_translation_corrected", 1),
            (folder.engine, "machine_translation", 2),
            ("native", "native", 2),
        ]
    )


def test_translations_of_others_stand_beside_their_originals_and_are_judged_by_them(folder: Any) -> None:
    found = folder.rows("SELECT * FROM captions WHERE source = 'tradotte' ORDER BY upstream_line")
    assert [(row["source_caption"], row["source_lang"], row["drop_reason"]) for row in found] == [
        (original or caption, "en" if original else "it", reason) for caption, original, reason in TRANSLATED
    ]
    assert [row["caption"] for row in found] == [caption.replace("&amp;", "&") for caption, _, _ in TRANSLATED]
    assert [row["length_ratio"] is not None for row in found] == [True, True, True, False]
    alone = folder.rows(
        "SELECT DISTINCT length_ratio, copied_share FROM captions WHERE source IN ('foto', 'mscoco_it')"
    )
    assert alone == [{"length_ratio": None, "copied_share": None}], "there is nothing to compare them with"


def test_cards_the_report_and_why_say_who_made_the_captions(folder: Any, told: Any) -> None:
    """Ten captions were read, of which one is dropped: 2 native, 3 by a translator, 4 by machines."""
    from training.exports.model_card import training_data

    makers = "4 (44.4%), of which people corrected 1. People translated 3."
    card = (folder.snapshot.folder / "README.md").read_text("utf-8")
    assert f"Of 9 captions, machine translation made {makers}" in card
    assert "it | translated by a machine and corrected by people | Bing | 1 |" in card
    assert training_data(folder.snapshot).splits["train"].makers() == makers
    page = write_report(folder.root, folder.snapshot).read_text("utf-8")
    text = re.sub(" ([.,])", r"\1", " ".join(re.sub("<[^>]*>", " ", page).split()))
    for row in (
        "none needed native – 2 2",
        "Bing translated by a machine and corrected by people – 1 1",
        "Bing translated by a machine – 1 1",
        f"{folder.engine} translated by a machine English 2 2",
        "Anna B. translated by people English",
        "Anna B. from English",
    ):
        assert row in text
    made = folder.rows(f"SELECT clean_caption, caption FROM captions WHERE translator = '{folder.engine}'")
    assert len(made) == 2
    assert all(f"{row['clean_caption']} {row['caption']}" in text for row in made), (
        "translations beside their originals"
    )
    (row,) = folder.rows("SELECT caption_id FROM captions WHERE origin = 'machine_translation_corrected'")
    lines = [line.strip() for line in told(["why", row["caption_id"], "--root", str(folder.root)]).splitlines()]
    assert {"origin: machine_translation_corrected", "translator: Bing"} <= set(lines)


def test_an_audit_draws_what_stands_beside_its_original_and_a_scoreboard_tells_human_from_machine(
    folder: Any, tmp_path: Path
) -> None:
    from training.scores.galleries import pairs_gallery

    assert main(["audit", "draw", "origini", "--root", str(folder.root), "--out", str(tmp_path / "audit")]) == 0
    (sheet,) = (tmp_path / "audit").rglob("*.csv")
    text = sheet.read_text(encoding="utf-8")
    assert TRANSLATED[0][0] in text
    assert not any(caption in text for caption in (VALIDATED, UNVALIDATED, *NATIVE, TRANSLATED[3][0]))
    gallery = pairs_gallery("origini:train", folder.snapshot.pair_files("train"))
    makers = dict(zip(gallery.captions, gallery.made_by, strict=True))
    assert {makers[text] for text in (*NATIVE, TRANSLATED[0][0], VALIDATED)} == {"human"}
    assert makers[UNVALIDATED] == "machine"
    assert sorted(makers.values()) == ["human"] * 6 + ["machine"] * 3


ORIGINAL = {"source_caption_column": "original", "source_lang": "en", "origin": "human_translation"}


def test_settings_that_contradict_each_other_are_refused(folder: Any) -> None:
    for settings, said in (
        ({"origin": "machine"}, "origin must be 'native', 'human_translation', 'machine_translation' or "),
        ({"origin": "native", "translator": "Anna B."}, "translator"),
        ({"origin": "human_translation", "translator": "Native"}, "marks captions without a translator"),
        ({"source_caption_column": "original", "source_lang": "en"}, "origin"),
        ({"source_lang": "en", "origin": "human_translation"}, "source_caption_column"),
        ({**ORIGINAL, "source_lang": "it"}, "source_lang"),
        ({**ORIGINAL, "lang_column": "l"}, "lang_column"),
    ):
        overrides = [f'sources.foto.{name}="{value}"' for name, value in settings.items()]
        with pytest.raises(SettingsError, match=f"sources.foto.*{re.escape(said)}"):
            folder.recipe(folder.toml, *overrides)
    recipe = folder.recipe(folder.toml, 'sources.tradotte.lang="fr"', 'sources.tradotte.source_lang="en"')
    for refused in (folder.build_recipe, lambda recipe: dry_run(recipe, root=folder.root)):
        with pytest.raises(SettingsError, match="source_caption_column is only for captions in it"):
            refused(recipe)


def test_a_recipe_can_say_what_file_names_do_not(folder: Any) -> None:
    off = [f"sources.{name}.enabled=false" for name in ("foto", "tradotte", "forme")]
    folder.build(folder.toml, *off, 'sources.mscoco_it.origin="human_translation"', "split.val=0", name="ridetto")
    found = folder.rows("SELECT DISTINCT origin, translator FROM captions WHERE dataset = 'ridetto'")
    assert found == [{"origin": "human_translation", "translator": None}]


def test_distil_learns_from_translated_captions_of_the_train_split_only(
    folder: Any, own_folder: Any, caplog: pytest.LogCaptureFixture
) -> None:

    own = own_folder(folder.folder)
    for number in range(60):
        own.save(f"more-{number}.png", 100 + number)
    rows = [(f"more-{n}.png", f"Il numero {n} di tutte le cose", own.caption(n)) for n in range(60)]
    made = {"origin": "human_translation", "source_lang": "en", "lang": "it"}
    toml = 'target_language = "it"\n' + own.source("tradotte", "path caption source_caption", rows, **made)
    settings = ["split.val=0.3", "clean.language_check=false", "check.language_check=false", "distil.num_held_out=2"]
    snapshot = own.build(toml, *settings, name="lehre").snapshot
    found = sentence_pairs(own.recipe(toml, *settings, name="lehre"), snapshot)
    kept = own.rows(
        "SELECT split, unnest(source_captions) AS source, unnest(captions) AS caption FROM pairs p "
        "WHERE dataset = 'lehre'"
    )
    train = {(row["source"], row["caption"]) for row in kept if row["split"] == "train"}
    assert len(train) > 25
    assert {*found.training, *found.held_out} == train
    assert (len(found.held_out), found.origins) == (2, {"human_translation": len(train)})
    (own.folder / "all.tsv").write_text("".join(f"{source}\t{caption}\n" for _, caption, source in rows), "utf-8")
    files = [*settings, f'distil.pairs=["{own.folder}/all.tsv"]', "distil.check_languages=false"]
    other = sentence_pairs(own.recipe(toml, *files, name="lehre"), snapshot)
    assert {*other.training, *other.held_out} == train, "captions of the val split are left out"
    assert other.origins == {"": len(train)}
    tested = min(train)
    table = own.source("held", "path caption", [("held.png", tested[1])], kind="test_sets", lang="", images="")
    fewer = sentence_pairs(own.recipe(toml + table, *files, name="lehre"), snapshot)
    assert {*fewer.training, *fewer.held_out} == train - {tested}
    held_out = next(row["caption"] for row in kept if row["split"] == "val")
    (own.folder / "alone.txt").write_bytes(f"«{held_out.upper()}»?\nEin Satz\n".encode() + b"caff\xe8\n")
    alone = sentence_pairs(
        own.recipe(toml, *settings, f'distil.unpaired=["{own.folder}/alone.txt"]', name="lehre"), snapshot
    )
    assert alone.unpaired == ["Ein Satz"]
    trained_on = own.build(toml, "split.val=0", *settings[1:], name="andere").snapshot
    learned = pair_files(trained_on).hashes()["train"]
    write_json(own.root / "models" / "andere" / "abc" / "run.json", {"settings": {}, "learned": learned})
    pointer = {"model": "abc", "snapshot": trained_on.snapshot}
    write_checksummed(own.root / "models" / "andere" / "current.json", pointer)
    for teacher, expected in (("andere", "was trained on .* images of the val and test"), ("lehre", "own dataset")):
        recipe = own.recipe(toml, *settings, f'distil.teacher="{teacher}"', name="lehre")
        with pytest.raises(PipelineError, match=expected):
            distil_model(recipe, own.root)
    warned = "the teacher andere learned captions in it, but source_language, in which it is to read, is en"
    assert caplog.text.count(warned) == 1
    by_default = sentence_pairs(own.recipe(toml, *settings[:-1], name="lehre"), snapshot)
    assert len(by_default.held_out) == len(train) // 10

"""`docs/recipes.md` lists every setting as the code has it, with an example that is read; run this file to write it."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from data_catalog.exports.rights import SourceRights
from data_catalog.fetch.config import HostLimits
from data_catalog.language_pack import LanguagePack
from data_catalog.settings import FILE
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.rows import RowLimit
from data_catalog.test_sets import TEST_SET_KINDS
from flows.recipe.recipe import SECTIONS, Dataset, load_recipe
from flows.recipe.settings import read, schema, section_fields
from flows.recipe.sources import StatedCaptions
from translation.train.config import TrainPackageConfig

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
BEGIN, END = "<!-- settings: written from the code by `make docs` -->", "<!-- end of settings -->"

# Of settings whose default says too little of what they may be, by path; "*" is any table.
EXAMPLES: Mapping[str, str] = {
    "name": '"photos"',
    "target_language": '"uk"',
    "language_pack": '"uk.toml"',
    "language_packs": '["fr.toml"]',
    "data": '"/data/upstream"',
    "scenes.folder": '"{root}/upstream"',
    "scenes.base_url": '"http://127.0.0.1:8765"',
    "scenes.fault_rates": "{dead_link = 0.1}",
    "serve.folder": '"{root}/upstream/www"',
    "serve.port": "8765",
    "build.dask_address": '"tcp://10.0.0.5:8786"',
    "clean.order": '["length", "language"]',
    "check.order": '["length", "language"]',
    "translate.package": '"en_it.argosmodel"',
    "translate.model": '"facebook/nllb-200-distilled-600M"',
    "translate.pivot": '"ca"',
    "translate.reverse_package": '"it_en.argosmodel"',
    "translate.reverse_model": '"facebook/nllb-200-distilled-600M"',
    "translate.command": '["python3", "mine.py", "--to={to}"]',
    "translate.version": '"2"',
    "translate.settings": '{file = "words.tsv"}',
    "fetch.contact": '"you@example.org"',
    "fetch.hosts": '{"example.org" = {concurrency = 2}}',
    "fetch.hosts.*.concurrency": "2",
    "fetch.hosts.*.requests_per_s": "0.5",
    "consent.ignore": '["train-ai"]',
    "duplicates.sources": '["mscoco", "wit"]',
    "split.by": '"upstream"',
    "train.image_weights": '"/weights/vit-b-32-openai"',
    "train.text_encoder": '"dbmdz/bert-base-italian-xxl-cased"',
    "evaluate.split": '"val"',
    "sources.*.license": '"CC-BY-4.0"',
    "sources.*.redistribution": "true",
    "sources.*.limit": "10000",
    "sources.wit.files": '["{data}/wit/*.tsv.gz"]',
    "sources.wit.languages": '["it", "en"]',
    "sources.mscoco.files": '["{data}/mscoco/captions_train2014.json"]',
    "sources.mscoco.images": '"{data}/mscoco/train2014.zip"',
    "sources.mscoco.origin": '"machine_translation_corrected"',
    "sources.mscoco.translator": '"Bing"',
    "sources.cc3m.files": '["{data}/cc3m/Train_GCC-training.tsv"]',
    "sources.flickr8k.files": '["{data}/flickr8k/Flickr8k.token.txt"]',
    "sources.flickr8k.images": '"{data}/flickr8k/Flicker8k_Dataset"',
    "sources.sbu.files": '["{data}/sbu/sbu-captions-all.json"]',
    "sources.pairs.files": '["photos.csv"]',
    "sources.pairs.caption_column": '"caption"',
    "sources.pairs.url_column": '"url"',
    "sources.pairs.path_column": '"image"',
    "sources.pairs.images": '"photos.zip"',
    "sources.pairs.lang": '"it"',
    "sources.pairs.lang_column": '"lang"',
    "sources.pairs.translator": '"DeepL"',
    "sources.pairs.source_caption_column": '"english"',
    "sources.pairs.source_lang": '"en"',
    "sources.pairs.license_column": '"license"',
    "sources.pairs.attribution_column": '"author"',
    "sources.pairs.page_column": '"page"',
    "sources.pairs.split_column": '"split"',
    "test_sets.*.captions_by": '"human"',
    "test_sets.*.captions_in": '"en"',
    "test_sets.mscoco_it.files": '["{data}/mscoco_it/captions_ita_devset_*.json.gz"]',
    "test_sets.mscoco_it.images": '"{data}/mscoco/val2014.zip"',
    "test_sets.xtd10.files": '["{data}/XTD10/*.txt"]',
    "test_sets.xtd10.languages": '["it"]',
    "test_sets.xtd10.images": '"{data}/mscoco/*2014.zip"',
    "test_sets.karpathy.files": '["{data}/karpathy/dataset_coco.json"]',
    "test_sets.karpathy.images": '"{data}/mscoco/*2014.zip"',
    "test_sets.flickr8k.files": '["{data}/flickr8k/Flickr_8k.testImages.txt", "{data}/flickr8k/Flickr8k.token.txt"]',
    "test_sets.flickr8k.images": '"{data}/flickr8k/Flicker8k_Dataset"',
    "test_sets.crossmodal3600.files": '["{data}/xm3600/captions.jsonl"]',
    "test_sets.crossmodal3600.languages": '["it", "en"]',
    "test_sets.crossmodal3600.images": '"{data}/xm3600/images"',
    "test_sets.pairs.files": '["shop.tsv"]',
    "test_sets.pairs.path_column": '"image"',
    "test_sets.pairs.url_column": '"url"',
    "test_sets.pairs.identity_column": '"id"',
    "test_sets.pairs.caption_column": '"caption"',
    "test_sets.pairs.images": '"shop"',
    "test_sets.list.files": '["held_out.txt"]',
    "test_sets.list.images": '"photos"',
    "pack.code": '"el"',
    "pack.iso639_3": '"ell"',
    "pack.name": '"Greek"',
    "pack.argos": '"el"',
    "pack.deepl": '"PT-BR"',
    "pack.langdetect": '"zh-cn"',
    "pack.spacy": '"el_core_news_sm"',
    "pack.flores": '"ell_Grek"',
    "pack.confusions": '["es", "ca"]',
    "pack.function_words": '["ο", "της", "χωρίς"]',
    "pack.negations": '["χωρίς"]',
    "pack.common_nouns": '["piazza", "museo"]',
    "pack.shared_words": '["frisbee", "laptop"]',
    "pack.tens": '["vent", "trent", "quarant", "cinquant", "sessant", "settant", "ottant", "novant"]',
    "pack.text_encoder": '"nlpaueb/bert-base-greek-uncased-v1"',
    "pack.prompt_templates": '["μια φωτογραφία: {c}"]',
    "pack.class_names": '["κυπρίνος", "χρυσόψαρο"]',
    "pack.test_sets": '["XTD10"]',
    "pack.license_notes": '"word lists: CC0"',
}
# What a table cannot do without for examples of its other settings, or of one of them.
_FILES: Mapping[str, Any] = {"files": ["captions.json"]}
_PHOTOS: Mapping[str, Any] = {"files": ["photos.csv"], "caption_column": "caption", "lang": "it"}
_LOCAL: Mapping[str, Any] = {**_PHOTOS, "path_column": "image"}
_TRANSLATED: Mapping[str, Any] = {**_LOCAL, "origin": "machine_translation"}
REQUIRED: Mapping[str, Mapping[str, Any]] = {
    "": {"target_language": "uk"},
    "scenes": {"folder": "upstream", "base_url": "http://127.0.0.1:8765"},
    "serve": {"folder": "upstream/www", "port": 8765},
    "translate.model": {"engine": "transformers"},
    "translate.reverse_package": {"round_trip": True},
    "translate.reverse_model": {
        "engine": "transformers",
        "model": "facebook/nllb-200-distilled-600M",
        "round_trip": True,
    },
    "translate.command": {"engine": "command"},
    "translate.version": {"engine": "command", "command": ["python3", "mine.py"]},
    "translate.settings": {"engine": "glossary"},
    "sources.wit": _FILES,
    "sources.mscoco": _FILES,
    "sources.mscoco.translator": {**_FILES, "origin": "machine_translation"},
    "sources.flickr8k": {**_FILES, "images": "photos"},
    "sources.pairs": _LOCAL,
    "sources.pairs.url_column": _PHOTOS,
    "sources.pairs.translator": _TRANSLATED,
    "sources.pairs.source_caption_column": {**_TRANSLATED, "source_lang": "en"},
    "sources.pairs.source_lang": {**_TRANSLATED, "source_caption_column": "english"},
    **{f"test_sets.{name}": _FILES for name in TEST_SET_KINDS},
    "test_sets.pairs": {**_FILES, "path_column": "image"},
    "pack": {"code": "el"},
    "pack.negations": {"code": "el", "function_words": ["χωρίς"]},
}


def tables() -> Iterator[tuple[str, type, str]]:
    """Yield heading, config dataclass and path of every table that a recipe may have, and of what is read like one."""
    yield "What stands before all tables", Dataset, ""
    for name, kind in SECTIONS.items():
        yield f"`[{name}]`", kind, name
        if name == "fetch":
            yield '`[fetch.hosts."NAME"]`', HostLimits, "fetch.hosts.*"
    yield "`[sources.NAME]` of every kind", SourceRights, "sources.*"
    yield "`[sources.NAME]` of every kind, in part", RowLimit, "sources.*"
    yield from of_kinds("sources", {name: kind.config_type for name, kind in SOURCE_KINDS.items()})
    yield "`[test_sets.NAME]` of every kind", StatedCaptions, "test_sets.*"
    yield from of_kinds("test_sets", {name: kind.config_type for name, kind in TEST_SET_KINDS.items()})
    yield "A language pack, the file that `language_pack` names", LanguagePack, "pack"
    yield "`vernaclip mt train --set NAME=...`", TrainPackageConfig, "mt_train"


def of_kinds(section: str, kinds: Mapping[str, type]) -> Iterator[tuple[str, type, str]]:
    """Yield a table for all kinds that have the same settings."""
    for config_type in dict.fromkeys(kinds.values()):
        names = [name for name, each in kinds.items() if each is config_type]
        told = " or ".join(f"`{name}`" for name in names)
        yield f"`[{section}.NAME]` of kind {told}", config_type, f"{section}.{names[0]}"


def type_of(field: Mapping[str, Any], place: str | None) -> str:
    """Return a JSON schema's type in the words of errors."""
    options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    kind = options[0]["type"]
    if kind == "array":
        return f"list of {type_of(options[0]['items'], place)}s".replace("name or", "names or")
    if kind == "string" and place:
        return "path" if place == FILE else "name or path"
    names = {"integer": "whole number", "boolean": "true or false", "string": "text", "object": "table"}
    return names.get(kind, str(kind))


def given_example(path: str, name: str) -> str | None:
    return EXAMPLES.get(f"{path}.{name}".removeprefix("."))


def rows(kind: type, path: str) -> Iterator[list[str]]:
    """Yield the cells of each setting's row."""
    described, fields = schema(kind), section_fields(kind)
    for name, field in described["properties"].items():
        default, metadata = field.get("default"), fields[name].metadata
        if name in described.get("required", ()):
            said = "required"
        elif default in (None, "", [], {}):
            said = "none"
        elif isinstance(default, list) and default == list(metadata.get("among", ())):
            said = "all"
        else:
            said = f"`{json.dumps(default, ensure_ascii=False)}`"
        example = given_example(path, name)
        yield [
            f"`{name}`{' †' if metadata.get('how') else ''}",
            said if isinstance(default, bool) else f"{type_of(field, metadata.get('path'))}: {said}",
            field["description"],
            f"`{name} = {example}`" if example else "",
        ]


def rewritten(page: str) -> str:
    lines = [BEGIN]
    for heading, kind, path in tables():
        first = schema(kind)["description"].partition("\n\n")[0]
        lines += ["", f"### {heading}", "", " ".join(first.split()), ""]
        found = [["setting", "type: default", "meaning", "example"], ["---"] * 4, *rows(kind, path)]
        width = 4 if any(cells[3] for cells in found[2:]) else 3
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells[:width])} |" for cells in found]
    text = "\n".join([*lines, "", END])
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: text, page, flags=re.DOTALL)


def test_the_page_lists_every_setting_as_the_code_has_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert BEGIN in page
    assert rewritten(page) == page


@pytest.mark.parametrize(("heading", "kind", "path"), list(tables()))
def test_every_setting_has_a_meaning_and_an_example_that_is_read(heading: str, kind: type, path: str) -> None:
    for name, field in schema(kind)["properties"].items():
        assert field["description"], f"{heading} {name}: no docstring below the field"
        default = field.get("default")
        example = given_example(path, name) or json.dumps(default, ensure_ascii=False)
        value = tomllib.loads(f"value = {example}")["value"]
        assert value not in (None, "", [], {}), f"{heading} {name}: its default is no example"
        required = REQUIRED.get(f"{path}.{name}", REQUIRED.get(path, {}))
        assert read(kind, {**required, name: value}, path)


def test_no_example_is_of_a_setting_that_there_is_not() -> None:
    known = {f"{path}.{name}".removeprefix(".") for _, kind, path in tables() for name in section_fields(kind)}
    assert EXAMPLES.keys() <= known
    assert REQUIRED.keys() <= known | {path for _, _, path in tables()} | {
        f"test_sets.{name}" for name in TEST_SET_KINDS
    }


def test_the_smallest_recipe_is_read_with_paths_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"^```toml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    (tmp_path / "photos.toml").write_text(found.group(1), encoding="utf-8")
    monkeypatch.chdir(tmp_path.parent)
    recipe = load_recipe(str(tmp_path / "photos.toml"), root=Path("catalog"))
    (source,) = recipe.sources
    assert recipe.name == "photos"
    assert source.config.files == (str(tmp_path / "photos.csv"),)
    assert source.config.images == str(tmp_path / "photos")


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

"""What goes wrong, and what the user reads: each message names the place, and what to do or what is allowed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from recipes import MINIMAL, write

from data_catalog.base.errors import InputError, PipelineError, SettingsError
from data_catalog.exports.export import ExportConfig
from flows.recipe.engines import one_way_config, packs_of, setting_values
from flows.recipe.language_packs import load_language_pack, named_language_packs
from flows.recipe.recipe import load_recipe
from flows.recipe.settings import OPTIONS, checked, read
from training.packages.config import TrainPackageConfig
from translation.config import TranslateConfig

# Overrides of the minimal recipe, and parts of the message: the place, and the remedy.
OVERRIDES: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    # keys
    "a misspelt section": (["trian.steps=3"], ["unknown key trian", "did you mean train"]),
    "a misspelt key": (["clean.min_wrods=3"], ["unknown key clean.min_wrods", "did you mean min_words"]),
    "a key of no section": (
        ["build.nothing=3"],
        ["unknown key build.nothing", "build has dask_address, fetch_workers"],
    ),
    "a key of an earlier version": (["fetch.respect_robots_txt=false"], ["unknown key fetch.respect_robots_txt"]),
    "licence for license": (['sources.mine.licence="CC0-1.0"'], ["sources.mine.licence", "did you mean license"]),
    "a key within a table": (
        ['fetch.hosts."a.org".speed=3'],
        ["fetch.hosts.a.org.speed", "has concurrency, requests_per_s"],
    ),
    "a section of a section": (["fetch.consent.ignore=train-ai"], ["unknown key fetch.consent", "contact"]),
    "a table for a value": (["split.val.x=3"], ["split.val must be a number"]),
    "a value for a table": (["build=3"], ["build must be a table of settings, got 3"]),
    "a key below a value": (["target_language.x=3"], ["target_language is not a section: it is 'en'"]),
    "no value": (["build.shard_size"], ["--set takes section.key=value, got 'build.shard_size'"]),
    "no key": (["=3"], ["--set takes section.key=value"]),
    # types
    "a word for a number": (["split.val=many"], ["split.val must be a number, got 'many'"]),
    "a fraction for a count": (["train.epochs=1.5"], ["train.epochs must be a whole number, got 1.5"]),
    "a number for a switch": (["fetch.allow_loopback=1"], ["fetch.allow_loopback must be true or false, got 1"]),
    "a switch for a number": (["split.val=true"], ["split.val must be a number, got True"]),
    "a number for a text": (["name=7"], ["name must be a string, got 7", """write "7" (in a shell '"7"')"""]),
    "not a number": (["split.val=nan"], ["split.val must be a finite number, got nan"]),
    "too long a number": (
        ["train.steps=" + "9" * 30],
        ["train.steps is too long a number", "at most 9223372036854775807"],
    ),
    "a date": (["name=2026-01-31"], ["name is 2026-01-31, a date", """write "2026-01-31" (in a shell '"2026"""]),
    "a path that is not UTF-8": (["data=caf\udce9"], ["data is 'caf\\udce9'", "rename the file or folder"]),
    # bounds
    "below the least": (["train.epochs=0"], ["train.epochs must be at least 1, got 0"]),
    "not above": (["train.lr=0"], ["train.lr must be above 0, got 0"]),
    "above the most": (["normalise.image_size=20000"], ["normalise.image_size must be at most 16384, got 20000"]),
    "not below": (["split.test=1"], ["split.test must be below 1, got 1"]),
    "in a list": (["fetch.ports=[80, 0]"], ["fetch.ports must be at least 1, got 0"]),
    "in a table": (['fetch.hosts."a.org".concurrency=0'], ["fetch.hosts.a.org.concurrency must be at least 1, got 0"]),
    "a fraction": (["train.image_std=[0.5, 0, 0.5]"], ["train.image_std must be above 0, got 0"]),
    "below nothing": (["sources.mine.limit=-1"], ["sources.mine.limit must be at least 0, got -1"]),
    "a quality of PNG": (
        ["normalise.encode_format=png", "normalise.encode_quality=10"],
        ["normalise.encode_quality must be from 0 to 9 for png, got 10"],
    ),
    # choices
    "an unknown choice": (["train.precision=fp16"], ["train.precision must be 'auto', 'fp32' or 'bf16', got 'fp16'"]),
    "an unknown one of a list": (["consent.ignore=noai"], ["consent.ignore must be 'robots.txt'", "got 'noai'"]),
    "an unknown name of a table": (["normalise.upscale_interpolation=x"], ["must be 'nearest', 'linear'", "got 'x'"]),
    "an unknown check": (["check.order=spelling"], ["check.order must name some of copied_through", "got 'spelling'"]),
    "an unknown kind": (["sources.mine.kind=webpages"], ["sources.mine.kind is 'webpages': use one of cc12m"]),
    "an unknown origin": (["sources.mine.origin=robot"], ["sources.mine.origin must be 'native'", "got 'robot'"]),
    "an unknown way": (["model.by=magic"], ["model.by must be 'train', 'align' or 'distil', got 'magic'"]),
    # what fits together
    "nothing to train on": (
        ["split.val=0.6", "split.test=0.6"],
        ["split.val 0.6 and split.test 0.6", "nothing to train", "lower one of them"],
    ),
    "bounds that exclude all": (
        ["check.min_words=9", "check.max_words=8"],
        ["check.max_words 8 is below check.min_words 9", "change one"],
    ),
    "one URL": (["duplicates.placeholder_urls=1"], ["duplicates.placeholder_urls must be 0, or at least 2"]),
    "two warm-ups": (["train.warmup_ratio=0.1"], ["train.warmup_ratio is 0.1", "set train.warmup_steps to 0"]),
    "a threshold of no model": (["image_text.min_score=1"], ["image_text.min_score needs image_text.model"]),
    "a setting of another engine": (
        ["translate.model=x"],
        ["translate.model is only for ctranslate2, openai", "--set translate.model=[]"],
    ),
    "no command": (["translate.engine=command"], ["translate.command is missing: give the program"]),
    "two packages": (
        ['translate.package=["a", "b"]'],
        ["translate.package must name one, or two with translate.pivot, got ['a', 'b']"],
    ),
    "no way back": (["translate.reverse_package=x"], ["translate.reverse_package", "set translate.round_trip = true"]),
    # names and languages
    "a folder's name": (["name=../up"], ["name must consist of letters, digits", "got '../up'"]),
    "no language": (["target_language="], ["target_language '' is not a language code", "such as 'it'"]),
    "a contact": (["fetch.contact=nobody"], ["fetch.contact must be a mail address or a URL, got 'nobody'"]),
    "a host's address": (['fetch.hosts."http://a.org".concurrency=1'], ["'http://a.org'", "host or domain such as"]),
    "two columns of images": (
        ["sources.mine.path_column=x"],
        ["sources.mine: exactly one of url_column and path_column", "images only beside path_column"],
    ),
    "no source": (
        ["sources.mine.enabled=false"],
        ["every source of the recipe is switched off by `enabled = false`", "one on"],
    ),
    "a name with a dash": (
        ['sources."my-own".files=x'],
        ["sources.my-own: a name must consist of letters, digits and _"],
    ),
    "a test set's language": (
        ["test_sets.coco.files=x", "test_sets.coco.captions_in=Italian"],
        ["captions_in Italian is not a language code"],
    ),
    "all at once": (
        ["trian.steps=3", "split.val=many", "split.test=few", "build.workers=0", "sources.mine.nothing=1"],
        [
            "5 things are wrong:",
            "unknown key trian",
            "split.val",
            "split.test",
            "build.workers",
            "sources.mine.nothing",
        ],
    ),
}


@pytest.mark.parametrize("situation", OVERRIDES)
def test_a_wrong_setting_is_named_with_what_is_allowed(situation: str, tmp_path: Path) -> None:
    overrides, parts = OVERRIDES[situation]
    with pytest.raises(SettingsError) as refused:
        load_recipe(write(tmp_path), root=tmp_path, overrides=overrides)
    for part in parts:
        assert part in str(refused.value)


def pack(folder: Path, text: str) -> str:
    path = folder / "xx.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


ELSEWHERE: dict[str, tuple[type[PipelineError], Callable[[Path], Any], Sequence[str]]] = {
    "no such recipe": (
        SettingsError,
        lambda folder: load_recipe("klingon", root=folder),
        ["there is no recipe 'klingon': use one of cc12m-pixels", "or a TOML file"],
    ),
    "no such file": (
        SettingsError,
        lambda folder: load_recipe("./no.toml", root=folder),
        ["there is no recipe file ./no.toml: correct the path, or write one with `vernaclip init`"],
    ),
    "no TOML": (
        SettingsError,
        lambda folder: load_recipe(write(folder, 'target_language = "en'), root=folder),
        ["mine.toml is not TOML: ", "at end of document"],
    ),
    "no text": (
        SettingsError,
        lambda folder: load_recipe(write(folder, "\0"), root=folder),
        ["mine.toml is not TOML: "],
    ),
    "a column is missing": (
        SettingsError,
        lambda folder: load_recipe(write(folder, MINIMAL.replace('caption_column = "caption"', "")), root=folder),
        ["sources.mine.caption_column is missing", "--set sources.mine.caption_column=..."],
    ),
    "the language is missing": (
        SettingsError,
        lambda folder: load_recipe(write(folder, MINIMAL.replace('target_language = "en"', "")), root=folder),
        ["target_language is missing", "--set target_language=..."],
    ),
    "a pack of another language": (
        SettingsError,
        lambda folder: named_language_packs(
            load_recipe(write(folder), root=folder, overrides={"language_pack": pack(folder, 'code = "el"')})
        ),
        ["xx.toml' is for the language 'el', but target_language is 'en'", "correct one of them"],
    ),
    "a misspelt key of a pack": (
        SettingsError,
        lambda folder: load_language_pack(pack(folder, 'code = "el"\nfuncton_words = ["a"]')),
        ["unknown key xx.toml.functon_words", "did you mean function_words"],
    ),
    "a pack that is not TOML": (
        InputError,
        lambda folder: load_language_pack(pack(folder, "code = el")),
        ["xx.toml is not TOML: "],
    ),
    "no pack of that name": (
        SettingsError,
        lambda folder: load_language_pack("klingon"),
        ["there is no language pack 'klingon': use one of", 'language_pack = "xx.toml"'],
    ),
    "no pack there": (
        InputError,
        lambda folder: load_language_pack(str(folder / "no.toml")),
        ["cannot read the language pack", "no.toml: No such file or directory"],
    ),
    "a pack that nothing uses": (
        SettingsError,
        lambda folder: packs_of(["en", "it"], [pack(folder, 'code = "el"')]),
        ["--language-pack is for el, but the translation is en - it", "leave the pack out"],
    ),
    "a setting of recipes": (
        SettingsError,
        lambda folder: one_way_config(setting_values(["round_trip=true"])),
        ["translate.round_trip can be set in recipes only"],
    ),
    "an option": (
        SettingsError,
        lambda folder: checked(ExportConfig(format="huggingface", samples_per_shard=0), OPTIONS),
        ["--samples-per-shard must be at least 1, got 0"],
    ),
    "a training of packages": (
        SettingsError,
        lambda folder: read(TrainPackageConfig, {"embed_dim": 100, "num_heads": 8}, "mt_train"),
        ["mt_train.embed_dim must be a multiple of twice num_heads (16), got 100"],
    ),
}


@pytest.mark.parametrize("situation", ELSEWHERE)
def test_what_is_wrong_elsewhere_is_named_with_what_to_do(situation: str, tmp_path: Path) -> None:
    kind, act, parts = ELSEWHERE[situation]
    with pytest.raises(PipelineError) as refused:
        act(tmp_path)
    assert type(refused.value) is kind
    for part in parts:
        assert part in str(refused.value)


# The settings that an engine uses beside those of all, with values that are not the defaults.
DECODING = {"beam_size": 4, "max_batch_tokens": 512, "compute_type": "float32", "device": "cpu"}
CTRANSLATE2 = {"patience": 1, "intra_threads": 2, "inter_threads": 1}
PACKAGE, MODEL, SETTINGS = {"package": ["x"]}, {"model": ["x"]}, {"settings": {"x": 1}}
COMMAND = {"command": ["x"], "version": "2", "timeout_s": 7.0, "max_chunk_size": 7}
EVERY: dict[str, Any] = DECODING | CTRANSLATE2 | PACKAGE | MODEL | SETTINGS | COMMAND | {"max_characters": 7}
USED: dict[str, dict[str, Any]] = {
    "argos": DECODING | CTRANSLATE2 | PACKAGE,
    "ctranslate2": DECODING | CTRANSLATE2 | MODEL,
    "deepl": {"max_characters": 7},
    "command": COMMAND,
    "openai": MODEL | SETTINGS | {name: COMMAND[name] for name in ("version", "timeout_s", "max_chunk_size")},
}


@pytest.mark.parametrize("engine", USED)
def test_a_setting_of_an_engine_is_used_or_refused(engine: str) -> None:
    """None is ignored silently."""
    needed = {name: value for name, value in USED[engine].items() if name in ("model", "command")}
    for name, value in EVERY.items():
        settings = {"engine": engine, **needed, name: value}
        if name in USED[engine]:
            assert getattr(read(TranslateConfig, settings, "translate"), name) != getattr(TranslateConfig(), name)
        else:
            with pytest.raises(SettingsError, match=rf"translate\.{name} is only for .* --set translate\.{name}="):
                read(TranslateConfig, settings, "translate")

"""First recipe for a language: look at the user's files, choose fitting settings, and write a commented recipe.

The files are read with the reader of a build, and some images are decoded with its decoder.
"""

import glob
import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.resources import files
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from cleaning.languages.engines import canonical_code, language_names
from cleaning.languages.identification import detectable_code, language_identifier, wrong_language
from cleaning.text.scripts import count_words
from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.base.plain_text import counted, visible_text
from data_catalog.catalog.manifest import SPLITS
from data_catalog.disk.files import write_bytes
from data_catalog.fetch.workers import ImageWorkers
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.rows.image_formats import is_image_name
from data_catalog.rows.urls import is_web_url
from data_catalog.sources.files import text_trouble, upstream_files
from data_catalog.sources.image_files import ImageFiles, open_images
from data_catalog.sources.pairs import PairsConfig
from data_catalog.sources.pixels import HuggingFaceConfig, WebDatasetConfig, holds_images
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.row_files import table_schema
from data_catalog.sources.rows import MalformedRow, UpstreamRow, normalised_split
from data_catalog.sources.tables import holds_text, read_rows, read_table, text_columns
from flows.findings import Finding
from flows.language_doctor import FOR_TRANSLATIONS, SOURCE, Language, examine, find_language
from flows.recipe.recipe import Recipe
from flows.recipe.settings import errors_of
from flows.towers import encoder_here, find_towers
from training.packages.pairs import read_pairs as read_parallel

MAX_ROWS = 1_000_000  # to read at most
_ROWS_FOR_COLUMNS, _CAPTIONS_FOR_LANGUAGE, _IMAGES_TRIED = 500, 1_000, 60
_SAMPLES_SEEN = 100_000  # by training on few images, whose features are computed once: some minutes on two cores
# With fewer images, val would be too small to choose the best epoch: it would choose nearly untrained weights.
_FEW_IMAGES = 1_000
# Measured on other photographs of Flickr8k: R@1 of 540 rises from 0.100 to 0.117, of 1,800 from 0.161 to 0.168.
_FEW_FOR_RIDGE = 2_500
# What a language may lack, by topic: what matters most comes first.
_MATTERS = {
    topic: place for place, topic in enumerate(("translation", "language check", "proper nouns", "text encoder"))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRecipe:
    """Result of `vernaclip init`: what was written, what the language lacks, and texts of facts and next commands."""

    files: Sequence[Path]
    language: str  # as options take it
    lacking: Sequence[Finding]
    found: str
    commands: str


def write_first_recipe(
    name: str,
    language: str,
    *,
    pairs: str | None = None,
    webdataset: str | None = None,
    huggingface: str | None = None,
    images: str | None = None,
    parallel: str | None = None,
) -> FirstRecipe:
    """Write a recipe `NAME.toml` into the working folder, and a language pack if none is built in and none exists.

    The arguments are those of `vernaclip init`. Without files, the recipe translates public English sources.
    """
    own = {"pairs": pairs, "webdataset": webdataset, "huggingface": huggingface}
    given = [(kind, place) for kind, place in own.items() if place is not None]
    with about("a recipe cannot hold a path that is not valid UTF-8", kind=SettingsError, remedy="rename it"):
        _ = "".join(path for path in (*own.values(), images, parallel) if path).encode()
    name = name.removesuffix(".toml")
    recipe = Path(f"{name}.toml")
    _ = Recipe(name=name, target_language=language, sources=())  # refuses a name that cannot be a folder
    if recipe.exists():
        raise SettingsError(f"{recipe} exists and is not overwritten: choose another NAME, or move the file away")
    if len(given) > 1 or (images is not None and pairs is None):
        several = f"--{' and --'.join(kind for kind, _ in given)} exclude each other: give one of them"
        raise SettingsError(
            several if len(given) > 1 else "--images needs --pairs, a table of images and captions: add it"
        )
    spoken, pack_file, is_new = _language(name, language)
    pack = spoken.pack
    look = None
    for kind, place in given:
        look = _look_at(place, images, pack) if kind == "pairs" else _look_inside(kind, place, pack)
        if not look.is_fetched:
            _try_images(look)
        _find_languages(look, pack)
    values: dict[str, Any] = {"name": name, "spoken": spoken, "pack_file": pack_file, "is_new": is_new, "look": look}
    values |= _settings(look, pack) if look else {}
    values["source"] = look.source_language if look else SOURCE if pack.code != SOURCE else None
    values["lesson"] = _lesson(parallel, pack, look) if parallel is not None else None
    towers = [] if encoder_here(pack) else [tower for tower in find_towers(pack) if tower.reads(pack.code)]
    values["installable"] = next((tower for tower in towers if tower.place.startswith("pip install")), None)
    texts = {recipe: _filled("first_recipe.toml", values)}
    if is_new:
        texts[Path(pack_file)] = _filled("first_language.toml", values)
    for path, text in reversed(texts.items()):
        write_bytes(path, text.encode())
    lacks = examine(find_language(pack_file) if is_new else spoken)
    matters = [each for each in lacks if values["source"] or each.topic not in FOR_TRANSLATIONS]
    return FirstRecipe(
        files=list(texts),
        language=pack_file or pack.code,
        lacking=sorted(
            (each for each in matters if each.severity != "found"),
            key=lambda each: _MATTERS.get(each.topic, len(_MATTERS)),
        ),
        found=_filled("first_found.txt", values),
        commands=_filled("first_commands.txt", values),
    )


def _language(name: str, language: str) -> tuple[Language, str, bool]:
    """Return the language, the file of its pack ("" for a built-in one), and whether the file must be written."""
    spoken = find_language(language)
    code = spoken.pack.code
    if spoken.has_pack:
        return spoken, "" if spoken.ships else _written_path(language), False
    file = f"{code}.toml" if name != code else f"{code}-language.toml"
    if Path(file).exists():
        with errors_of(f"{file} exists and is not a language pack for {code}"):
            spoken = find_language(file)
            if spoken.pack.code != code:
                raise SettingsError(f"it is one for {spoken.pack.code}: move it away")
        return spoken, file, False
    title, iso639_3 = language_names().get(code, ("", None))
    return replace(spoken, file=file, pack=replace(spoken.pack, name=title, iso639_3=iso639_3)), file, True


# --- The user's files -----------------------------------------------------------------------------------------------

Samples = Mapping[str, Sequence[str]]  # texts of the first rows, by column
# Usual names of columns; those of captions are in order of likelihood.
_CAPTION_NAMES = ("caption", "captions", "text", "description", "sentence", "title", "alt", "alt_text")
_IMAGE_NAMES = frozenset(("image", "img", "photo", "picture", "file", "filename", "path", "url"))
_Facts = Mapping[str, tuple[frozenset[str], Callable[[str], bool]]]
_FACTS: _Facts = {
    "lang": (
        frozenset(("lang", "language", "locale", "lang_code", "language_code")),
        lambda text: len(text) in (2, 3) and text.isascii() and text.isalpha(),
    ),
    "split": (
        frozenset(("split", "subset", "partition", "set", "fold")),
        lambda text: normalised_split(text) in SPLITS,
    ),
    "license": (frozenset(("license", "licence", "rights")), bool),
    "attribution": (frozenset(("attribution", "author", "photographer", "credit", "creator", "artist")), bool),
    "page": (frozenset(("page", "page_url", "landing_url", "source_url")), is_web_url),
}


@dataclass(slots=True, kw_only=True)
class _Look:
    """Contents of the user's files."""

    kind: str = "pairs"  # of the source
    config: Any  # its settings in the recipe
    where: str  # folder, zip or tar of the images
    doubts: list[str]  # columns that may have been meant instead, or that could not be used
    num_rows: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    captions: list[str] = field(default_factory=list)
    images: dict[str, None] = field(default_factory=dict)  # distinct names or URLs
    languages: Counter[str] = field(default_factory=Counter)  # captions by stated language
    splits: Counter[str] = field(default_factory=Counter)
    has_urls: bool = False  # rows state where their images were or are
    missing: list[str] = field(default_factory=list)  # images that do not exist
    tried: Counter[str] = field(default_factory=Counter)  # decoded images by drop reason, "" for good ones
    sample: list[str] = field(default_factory=list)  # captions whose language was identified
    foreign: Counter[str] | None = None  # of these, those certainly in another language; None: not identifiable
    source_language: str | None = None  # to translate from

    @property
    def has_pixels(self) -> bool:
        return SOURCE_KINDS[self.kind].has_pixels

    @property
    def is_fetched(self) -> bool:
        return not self.has_pixels and bool(self.config.url_column)

    @property
    def num_images(self) -> int:
        return len(self.images) - len(self.missing)

    @property
    def num_short(self) -> int:
        return sum(count_words(caption) < 2 for caption in self.captions)

    @property
    def dropped(self) -> Counter[str]:
        return Counter({reason: count for reason, count in self.tried.items() if reason})

    @property
    def hosts(self) -> Counter[str]:
        return Counter(urlsplit(url).hostname or "" for url in self.images)

    @property
    def keeps_splits(self) -> bool:
        return bool(self.splits["train"] and (self.splits["val"] or self.splits["test"]))

    @property
    def query(self) -> str:
        return min(self.captions, key=lambda text: (count_words(text) < 2, len(text), text))


def _look_at(pairs: str, images: str | None, pack: LanguagePack) -> _Look:
    """Read the files of pairs, find the role of each column, then check the images and the languages."""
    probe = PairsConfig(files=(pairs,), caption_column="?", path_column="?", images=images, lang=pack.code)
    with errors_of("--pairs"):
        file = upstream_files(probe)[0]
        samples = _samples(file)
    where = images or str(file.parent)
    with errors_of("--images"):
        opened = open_images(where)
    with closing(opened):
        with errors_of("--pairs"):
            config, doubts = _columns(samples, probe, pack, opened)
            look = _Look(config=config, where=where, doubts=doubts)
            _read_rows(look)
        if config.path_column:
            _find_images(look, opened)
    return look


def _look_inside(kind: str, given: str, pack: LanguagePack) -> _Look:
    """Read files that hold their images, find the role of each column or key, then check images and languages."""
    with errors_of(f"--{kind}"):
        config, doubts = (_keys_of_tars if kind == "webdataset" else _columns_of_tables)(_expanded(given), pack)
        look = _Look(kind=kind, config=config, where=config.images, doubts=doubts)
        _read_rows(look)
    return look


def _expanded(pattern: str) -> tuple[str, ...]:
    """Return the files of a pattern with {000..010} or {a,b}, as `webdataset` has it; a glob if it finds the same."""
    names, with_star = [*_expansions(pattern)], re.sub(r"\{[^{}]*\}", "*", pattern)
    is_glob = len(names) > 1 and set(glob.glob(with_star)) == set(names)  # noqa: PTH207  Path.glob takes no absolute one
    return (with_star,) if is_glob else tuple(names)


def _expansions(pattern: str) -> Iterator[str]:
    braces = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if braces is None:
        yield pattern
        return
    first, last, choice = braces.groups()
    width = max(len(first), len(last)) if not choice and "0" in (first[0], last[0]) else 0
    for part in choice.split(",") if choice else range(int(first), int(last) + 1):
        yield from _expansions(f"{pattern[: braces.start()]}{str(part).zfill(width)}{pattern[braces.end() :]}")


def _keys_of_tars(files: tuple[str, ...], pack: LanguagePack) -> tuple[WebDatasetConfig, list[str]]:
    """Return the settings for the names in KEY.json, and remarks about doubtful ones."""
    probe = WebDatasetConfig(files=files, lang=pack.code)
    first = islice(chain.from_iterable(found for _, found in probe.samples()), _ROWS_FOR_COLUMNS)
    # The caption of KEY.txt or of "caption" in KEY.json, which needs no setting.
    samples = _texts({**sample.values, "caption": sample.captions} for sample in first)
    settings, doubts = _roles(samples, probe, pack)
    unneeded = [name for name, key in (("url_key", "url"), ("caption_key", "caption")) if settings.get(name) == key]
    return replace(probe, **settings | dict.fromkeys(unneeded)), doubts


def _columns_of_tables(files: tuple[str, ...], pack: LanguagePack) -> tuple[HuggingFaceConfig, list[str]]:
    """Return the settings for the columns of tables of `datasets`, and remarks about doubtful ones."""
    probe = HuggingFaceConfig(files=files, caption_column="?", lang=pack.code)
    path = upstream_files(probe)[0]
    schema = table_schema(path)
    texts = [each.name for each in schema if holds_text(getattr(each.type, "value_type", each.type))]
    samples = _texts(entry.values for entry in islice(read_rows(path, texts), _ROWS_FOR_COLUMNS))
    images = sorted((each.name for each in schema if holds_images(each.type)), key=lambda name: (name != "image", name))
    settings, doubts = _roles(samples, probe, pack)
    doubts += [
        f'"{other}" also contains images: if it has those of the captions, change image_column' for other in images[1:]
    ]
    return replace(probe, image_column=images[0] if images else "image", **settings), doubts


def _texts(rows: Iterable[Mapping[str, object]]) -> Samples:
    """Return the texts of each column; of a list, the first one."""
    found = defaultdict[str, list[str]](list)
    for row in rows:
        for name, value in row.items():
            text = next(iter(value), None) if isinstance(value, list) else value
            if isinstance(text, str) and text.strip() and not text_trouble(text):
                found[name].append(text.strip())
    return found


def _roles(samples: Samples, probe: Any, pack: LanguagePack) -> tuple[dict[str, Any], list[str]]:
    """Return the settings for the captions and facts beside images, and remarks about doubtful ones."""
    urls = {"url": (frozenset(("url", "image_url", "img_url")), is_web_url)}
    facts, doubts = _facts(samples, {**urls, **_FACTS}, pack)
    caption, remarks = _caption(samples, facts.values(), probe, pack)
    settings = {f"{name}_{probe.SUFFIX}": column for name, column in {**facts, "caption": caption}.items()}
    return settings, doubts + remarks


def _samples(path: Path) -> Samples:
    """Return the columns of a file with the texts of its first rows."""
    with about(f"{path} cannot be read"):
        columns = text_columns(path)
    columns = [column for column in columns if columns.count(column) == 1]
    entries = list(islice(read_table(path, columns, lambda text: False), _ROWS_FOR_COLUMNS))
    if not entries:
        raise InputError(f"{path} has columns but no rows")
    bad = [entry.line for entry in entries if entry.trouble and entry.trouble.reason == "bad_encoding"]
    if any(map(text_trouble, columns)) or len(bad) > len(entries) / 2:
        raise InputError(f"{path} is not UTF-8 (line {bad[0] if bad else 1}): save it as UTF-8")
    texts = _texts(entry.values for entry in entries)
    return {column: texts.get(column, ()) for column in columns}


def _columns(
    samples: Samples, probe: PairsConfig, pack: LanguagePack, opened: ImageFiles
) -> tuple[PairsConfig, list[str]]:
    """Return the settings for the columns of images, captions and facts, and remarks about doubtful columns."""
    image, *others = _image_columns(samples, opened) or _none_of("images", samples, probe)
    if is_image_name(image) or is_web_url(image):
        raise InputError(
            f"{probe.files[0]} has no header line (its first one names {image}): add one, such as image,caption"
        )
    doubts = [f'"{other}" may also name images: if so, change path_column or url_column' for other in others]
    facts, remarks = _facts({name: values for name, values in samples.items() if name != image}, _FACTS, pack)
    caption, more = _caption(samples, (image, *facts.values()), probe, pack)
    doubts += remarks + more
    web, path = (image, None) if _share(samples[image], is_web_url) >= 0.5 else (None, image)
    if web and probe.images:
        raise SettingsError(f'--images is for file names, but the column "{web}" contains URLs: leave --images out')
    named: dict[str, Any] = {f"{name}_column": column for name, column in facts.items()}
    return replace(probe, caption_column=caption, url_column=web, path_column=path, **named), doubts


def _facts(samples: Samples, table: _Facts, pack: LanguagePack) -> tuple[dict[str, str], list[str]]:
    """Return the columns of facts by their names and texts, and remarks about those that could not be used."""
    facts: dict[str, str] = {}
    doubts = []
    for column, values in samples.items():
        for name, (names, fits) in table.items():
            if _key(column) not in names or name in facts:
                continue
            if name == "lang" and pack.code not in values:
                doubts.append(f'"{column}" never contains {pack.code}, so it is not used as the language of captions')
            elif _share(values, fits) >= 0.9:
                facts[name] = column
    return facts, doubts


def _caption(samples: Samples, used: Iterable[str], probe: Any, pack: LanguagePack) -> tuple[str, list[str]]:
    """Return the column of captions, and remarks about others that may be meant."""
    rest = {column: values for column, values in samples.items() if column not in set(used)}
    caption, *others = _caption_columns(rest, pack) or _none_of("captions", samples, probe)
    change = f"caption_{probe.SUFFIX}"
    if isinstance(probe, PairsConfig):
        change += f', or set source_caption_column if "{caption}" was translated from it'
    remarks = [
        f'"{other}" may also contain captions: if so, change {change}'
        for other in others
        if samples[other] != samples[caption]
    ]
    return caption, remarks


def _none_of(what: str, samples: Samples, probe: Any) -> list[str]:
    """Refuse a file without a column of images or of captions."""
    needed = "it needs texts in KEY.txt or KEY.json, or in a column"
    if isinstance(probe, PairsConfig):
        needed = (
            "it needs one of file names such as photo.jpg or of URLs, and one of captions, separated by commas in .csv "
            "files, by tabs in .tsv files"
        )
    raise InputError(f"{probe.files[0]} has no column of {what}, only {', '.join(samples) or 'none of text'}: {needed}")


def _key(column: str) -> str:
    return column.strip().casefold().replace(" ", "_").replace("-", "_")


def _share(values: Sequence[str], fits: Callable[[str], bool]) -> float:
    return sum(map(fits, values)) / len(values) if values else 0.0


def _image_columns(samples: Samples, opened: ImageFiles) -> list[str]:
    """Return the columns that may name images: existing files come first, then other file names, then URLs."""
    ranks: dict[str, tuple[bool, bool, bool, bool]] = {}
    for column, values in samples.items():
        is_web = _share(values, is_web_url) >= 0.5
        is_there = not is_web and _share(values[:50], lambda name: _size(opened, name) is not None) >= 0.5
        looks = _share(values, lambda text: is_image_name(text.partition("?")[0])) >= 0.5
        if is_there or is_web or looks:
            named = not _IMAGE_NAMES.isdisjoint(_key(column).split("_"))
            ranks[column] = (is_there, looks and not is_web, looks, named)
    return sorted(ranks, key=ranks.__getitem__, reverse=True)


def _size(opened: ImageFiles, name: str) -> int | None:
    """Return the size of an image file in bytes, or None if it cannot be read."""
    try:
        return opened.size(name)
    except OSError:
        return None


def _caption_columns(samples: Samples, pack: LanguagePack) -> list[str]:
    """Return the columns that may be captions, the likeliest first: the language of texts counts more than names."""
    code = detectable_code(pack, "cascade")
    identify = language_identifier(code, candidates=[SOURCE]) if code else None
    ranks: dict[str, tuple[bool, bool, int, float]] = {}
    for column, values in samples.items():
        if _share(values, _is_text) < 0.5:
            continue
        key = _key(column)
        place = _CAPTION_NAMES.index(key) if key in _CAPTION_NAMES else len(_CAPTION_NAMES)
        num_words = sum(map(count_words, values)) / len(values)
        # Of single words, such as img2dataset's status "success", the language says little.
        verdicts = identify(values[:200]) if identify and num_words >= 2 else []
        num_spoken = sum(verdict.language == canonical_code(code or "") for verdict in verdicts)
        ranks[column] = (num_spoken * 2 > len(verdicts), pack.code in key.split("_"), -place, num_words)
    best = sorted(ranks, key=ranks.__getitem__, reverse=True)
    # Columns of single words, such as tags, are hardly captions unless their names say so.
    named = (False, -len(_CAPTION_NAMES))
    return [column for column in best if column == best[0] or ranks[column][1:3] > named or ranks[column][3] >= 2]


def _is_text(text: str) -> bool:
    return any(map(str.isalpha, text)) and text[0] not in "{[" and not is_web_url(text) and not is_image_name(text)


def _read_rows(look: _Look) -> None:
    """Read the rows with the reader of a build, and count their contents."""
    SOURCE_KINDS[look.kind].check(look.config)
    for row in islice(SOURCE_KINDS[look.kind].read(look.config), MAX_ROWS):
        look.num_rows += 1
        if isinstance(row, MalformedRow):
            look.malformed[row.reason] += 1
        elif isinstance(row, UpstreamRow):
            look.captions.append(row.caption.strip())
            look.images[row.path or row.url or ""] = None
            look.has_urls |= row.url is not None
            look.languages[row.lang] += 1
            look.splits.update([row.split] if row.split else [])
    if not look.captions:
        raise InputError(f"no row of {look.config.files[0]} is a pair of image and caption: {dict(look.malformed)}")


def _find_images(look: _Look, opened: ImageFiles) -> None:
    """Look for all images."""
    look.missing = [name for name in look.images if _size(opened, name) is None]
    if not look.num_images:
        raise InputError(
            f"--images: none of {counted(len(look.images), 'image')}, such as {look.missing[0]}, is in {look.where}: "
            f'use --images DIR to name the folder, zip or tar with the files of column "{look.config.path_column}"'
        )


def _try_images(look: _Look) -> None:
    """Decode some images with the decoder of a build, in child processes."""
    there = sorted(look.images.keys() - set(look.missing))
    some = sorted(Random(0).sample(there, min(len(there), _IMAGES_TRIED)))
    with ImageWorkers() as workers:
        images = workers.normalise_local(look.where, some, NormaliseConfig())
        look.tried = Counter(image.get("drop_reason") or "" for image in images)


def _find_languages(look: _Look, pack: LanguagePack) -> None:
    """Identify the languages of the captions, and decide whether they must be translated."""
    code = detectable_code(pack, "cascade")
    if look.config.named("lang"):
        others = (lang for lang, _ in look.languages.most_common() if lang != pack.code)
        look.source_language = next((lang for lang in others if re.fullmatch("[a-z]+", lang)), None)
        return
    look.sample = Random(0).sample(look.captions, min(len(look.captions), _CAPTIONS_FOR_LANGUAGE))
    verdicts = language_identifier(code or SOURCE, candidates=[SOURCE])(look.sample)
    if code is not None:
        drops = wrong_language(verdicts, look.sample)
        look.foreign = Counter((drop.detail or "").split()[0] for drop in drops if drop)
        for language, count in look.foreign.most_common(1):
            if count > len(look.sample) / 2:
                look.source_language = language
                look.config = replace(look.config, lang=language)
    for likeliest, count in Counter(verdict.language for verdict in verdicts).most_common(1):
        if count > len(look.sample) / 2 and likeliest not in (None, canonical_code(code or ""), look.source_language):
            column = look.config.named("caption") or "caption"
            look.doubts.append(f'"{column}" seems to be in {likeliest}: is --language {pack.code} right?')


# --- Written texts --------------------------------------------------------------------------------------------------


def _written_path(place: str) -> str:
    """Return a path for the recipe: relative to the working folder, into which the recipe is written, or absolute."""
    path = Path(place).expanduser()
    if "://" in place or (not path.is_absolute() and ".." not in path.parts):
        return place
    path, here = path.resolve(), Path.cwd().resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _filled(template: str, values: Mapping[str, object]) -> str:
    """Return a template of `flows/pages` filled with values."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # noqa: S701  no HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        # A file keeps its characters, which `toml` writes; a terminal shows them.
        finalize=lambda value: visible_text(value) if isinstance(value, str) and template.endswith(".txt") else value,
    )
    environment.filters |= {
        "toml": lambda text: json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f"),
        "shell": shlex.quote,
        "some": _some,
        "counts": lambda counter: _some([f"{name} {count:,}" for name, count in counter.most_common()]),
        "counted": counted,
        "count": "{:,}".format,
    }
    return environment.from_string((files("flows") / "pages" / template).read_text("utf-8")).render(values)


def _some(texts: Sequence[str], most: int = 3) -> str:
    return ", ".join([*texts[:most], *(["..."] if len(texts) > most else [])])


def _settings(look: _Look, pack: LanguagePack) -> dict[str, Any]:
    """Return the values of a recipe for the user's own pairs, with settings that fit their number."""
    share = round(min(0.1, max(0.01, 500 / look.num_images)), 2)  # about five hundred images each
    few = 0.1 if look.num_images >= 100 else 0.2
    val, test = (0.0, few) if look.num_images < _FEW_IMAGES else (share, share)
    num_train = look.num_images * (1 - val - test)
    if look.keeps_splits:
        num_train = look.num_images * look.splits["train"] / look.splits.total()
    batch_size = next((size for size in (128, 64, 32, 16, 8) if size * 4 <= num_train), 4)
    epochs = min(60, max(10, int(_SAMPLES_SEEN // max(1, num_train))))
    return {
        "files": [_written_path(file) for file in look.config.files],
        "images": _written_path(look.where),
        "facts": [(f"{name}_{look.config.SUFFIX}", column) for name in _FACTS if (column := look.config.named(name))],
        # Local files without stated licenses; what others have collected is not.
        "is_own": not (look.has_pixels or look.has_urls or look.config.named("license")),
        "val": val,
        "test": test,
        "num_train": round(num_train),
        "epochs": epochs,
        "steps": max(1, round(epochs * num_train / batch_size)) if look.num_images < _FEW_IMAGES else None,
        "batch_size": batch_size,
        "encoder": encoder_here(pack),
        "ridge": 10.0 if num_train < _FEW_FOR_RIDGE else 1.0,
    }


def _lesson(parallel: str, pack: LanguagePack, look: _Look | None) -> dict[str, Any]:
    """Return the values of a recipe whose text tower learns from an English encoder, by parallel sentences."""
    teacher = encoder_here(find_language(SOURCE).pack)
    if look is None or look.source_language not in (None, SOURCE) or pack.code == SOURCE:
        raise SettingsError(
            "--parallel teaches a text tower another language than English, to be aligned with images: it needs "
            "--pairs, --webdataset or --huggingface with captions in that language or in English"
        )
    if teacher is None:
        raise SettingsError(
            "--parallel needs an English text encoder on this machine: `vernaclip towers --language en` lists some"
        )
    with errors_of("--parallel"):
        read_parallel(Path(parallel), num_held_out=2)
    return {"teacher": teacher, "pairs": _written_path(parallel)}

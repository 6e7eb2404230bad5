"""First recipe for a language: analyse the user's pairs, choose fitting settings, and write a commented recipe.

The files are read with the reader of a build, and some images are decoded with its decoder.
"""

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from importlib.resources import files
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cleaning.languages.engines import canonical_code, language_names
from cleaning.languages.identification import detectable_code, language_identifier, wrong_language
from cleaning.text.scripts import count_words
from data_catalog.base.errors import InputError, PipelineError, SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.base.plain_text import counted
from data_catalog.catalog.manifest import SPLITS
from data_catalog.disk.files import write_bytes
from data_catalog.fetch.workers import ImageWorkers
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.rows.image_formats import is_image_name
from data_catalog.rows.urls import is_web_url
from data_catalog.sources.files import text_trouble, upstream_files
from data_catalog.sources.image_files import ImageFiles, open_images
from data_catalog.sources.pairs import PairsConfig
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.rows import MalformedRow, UpstreamRow, normalised_split
from data_catalog.sources.tables import read_table, text_columns
from flows.findings import Finding
from flows.language_doctor import FOR_TRANSLATIONS, SOURCE, Language, examine, find_language
from flows.recipe.recipe import Recipe
from flows.towers import encoder_here, find_towers
from training.packages.pairs import read_pairs as read_parallel

MAX_ROWS = 1_000_000  # to read at most
_ROWS_FOR_COLUMNS, _CAPTIONS_FOR_LANGUAGE, _IMAGES_TRIED = 500, 1_000, 60
_MOST_NAMED = 3
_SAMPLES_SEEN = 100_000  # by training on few images, whose features are computed once: some minutes on two cores
IMAGE_TOWER = "efficientnet-lite0"  # which every installation has
# With fewer images, val would be too small to choose the best epoch: it would choose nearly untrained weights.
_FEW_IMAGES = 1_000
# Measured on other photographs of Flickr8k: R@1 of 540 rises from 0.100 to 0.117, of 1,800 from 0.161 to 0.168.
_FEW_FOR_RIDGE = 2_500


class Line(NamedTuple):
    """A line of output: a topic or a command, and its description."""

    topic: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRecipe:
    """Result of `vernaclip init`.

    Args:
        files: the files written: the recipe, and a language pack if there was none.
        found: facts about the user's files.
        lacking: findings about what the language lacks.
        commands: commands to try next, in order.
    """

    files: Sequence[Path]
    found: Sequence[Line]
    lacking: Sequence[Finding]
    commands: Sequence[Line]


def write_first_recipe(
    name: str, language: str, *, pairs: str | None = None, images: str | None = None, parallel: str | None = None
) -> FirstRecipe:
    """Write a recipe `NAME.toml` into the working folder, and a language pack if none is built in and none exists.

    Args:
        name: name of the dataset.
        language: a code, or the file of a language pack.
        pairs: file of images and captions, or a glob; without it, the recipe translates public English sources.
        images: folder, zip or tar of the images, if the file contains names of image files.
        parallel: file of English sentences and their translations.

    Raises:
        SettingsError: the name or language is invalid, or the recipe exists already.
        InputError: a file cannot be read, has no captions or no images, or none of its images exists.
    """
    name = name.removesuffix(".toml")
    recipe = Path(f"{name}.toml")
    _ = Recipe(name=name, target_language=language, sources=())  # refuses a name that cannot be a folder
    for option, place in (("--pairs", pairs), ("--images", images), ("--parallel", parallel)):
        if place is not None and any("\ud800" <= letter <= "\udfff" for letter in place):
            raise SettingsError(f"{option} {place!r} is not valid UTF-8 and cannot be written to a recipe: rename it")
    if recipe.exists():
        raise SettingsError(f"{recipe} exists and is not overwritten: choose another NAME, or move the file away")
    if images is not None and pairs is None:
        raise SettingsError("--images needs --pairs, a table of images and captions: add it")
    spoken, pack_file, is_new = _language(name, language)
    look = _analyse(pairs, images, spoken.pack) if pairs is not None else None
    lesson = _lesson(parallel, spoken, look) if parallel is not None else {"teacher": None}
    source = look.source_language if look else SOURCE if spoken.pack.code != SOURCE else None
    found = list(_found(look, spoken)) if look else []
    english = "in English" if spoken.pack.code == SOURCE else "translated from English"
    settings = _pairs_settings(look, spoken.pack) | lesson if look else {"pairs": None, "english": english}
    named = {"name": name, "title": spoken.title, "code": spoken.pack.code, "pack_file": pack_file}
    text = _written("first_recipe.toml", **named, **settings)
    if is_new:
        pack_text = _written("first_language.toml", title=spoken.title, file=spoken.file, pack=spoken.pack)
        write_bytes(Path(pack_file), pack_text)
        spoken = find_language(pack_file)
        found.append(Line("language", f"no built-in pack for {spoken.title}: {pack_file} is a small one to extend"))
    write_bytes(recipe, text)
    return FirstRecipe(
        files=[recipe, *([Path(pack_file)] if is_new else [])],
        found=found,
        lacking=[
            lack
            for lack in examine(spoken)
            if lack.severity != "found" and (source or lack.topic not in FOR_TRANSLATIONS)
        ],
        commands=list(_commands(name, look, spoken.pack.code, source)),
    )


def _language(name: str, language: str) -> tuple[Language, str, bool]:
    """Return the language, the file of its pack ("" for a built-in one), and whether the file must be written."""
    spoken = find_language(language)
    code = spoken.pack.code
    if spoken.has_pack:
        return spoken, "" if spoken.ships else _written_path(language), False
    file = f"{code}.toml" if name != code else f"{code}-language.toml"
    if Path(file).exists():
        try:
            spoken = find_language(file)
        except PipelineError as error:
            raise SettingsError(f"{file} exists and is not a language pack for {code}: {error}") from error
        if spoken.pack.code != code:
            raise SettingsError(f"{file} exists and is a language pack for {spoken.pack.code}: move it away")
        return spoken, file, False
    title, iso639_3 = language_names().get(code, ("", None))
    return replace(spoken, file=file, pack=replace(spoken.pack, name=title, iso639_3=iso639_3)), file, True


# --- Analysis of the files ------------------------------------------------------------------------------------------

Samples = Mapping[str, Sequence[str]]  # texts of the first rows, by column
# Usual names of columns; those of captions are in order of likelihood.
_CAPTION_NAMES = ("caption", "captions", "text", "description", "sentence", "title", "alt", "alt_text")
_IMAGE_NAMES = frozenset(("image", "img", "photo", "picture", "file", "filename", "path", "url"))
_FACTS: Mapping[str, tuple[frozenset[str], Callable[[str], bool]]] = {
    "lang_column": (
        frozenset(("lang", "language", "locale", "lang_code", "language_code")),
        lambda text: len(text) in (2, 3) and text.isascii() and text.isalpha(),
    ),
    "split_column": (
        frozenset(("split", "subset", "partition", "set", "fold")),
        lambda text: normalised_split(text) in SPLITS,
    ),
    "license_column": (frozenset(("license", "licence", "rights")), bool),
    "attribution_column": (frozenset(("attribution", "author", "photographer", "credit", "creator", "artist")), bool),
    "page_column": (frozenset(("page", "page_url", "landing_url", "source_url")), is_web_url),
}


@dataclass(slots=True, kw_only=True)
class _PairsAnalysis:
    """Facts about the user's files of pairs.

    Args:
        config: their settings in the recipe.
        where: folder, zip or tar of the images.
        doubts: remarks about columns that may have been meant instead, or that could not be used.
        num_short: number of captions of a single word.
        images: distinct names or URLs.
        languages, splits: number of captions by stated language and by stated split.
        foreign: number of sampled captions that are certainly in another language, by language; None: the language
            cannot be identified.
        missing: names of images that do not exist.
        tried: outcomes of decoding some images: drop reasons, "" for good images.
        sides: shorter sides of the good images, in pixels.
        source_language: the language to translate from; None: nothing is translated.
    """

    config: PairsConfig
    where: str
    doubts: list[str]
    num_rows: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    captions: list[str] = field(default_factory=list)
    num_short: int = 0
    images: dict[str, None] = field(default_factory=dict)
    languages: Counter[str] = field(default_factory=Counter)
    foreign: Counter[str] | None = None
    splits: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    num_bytes: int = 0
    tried: Counter[str] = field(default_factory=Counter)
    sides: list[int] = field(default_factory=list)
    source_language: str | None = None

    @property
    def num_images(self) -> int:
        """Return the number of images that exist, or that a build would fetch."""
        return len(self.images) - len(self.missing)

    @property
    def is_own(self) -> bool:
        """Return True if the images are local files and no column states their licenses."""
        return bool(self.config.path_column) and not self.config.license_column

    @property
    def keeps_splits(self) -> bool:
        """Return True if the rows state a train split and a held-out split."""
        return bool(self.splits["train"] and (self.splits["val"] or self.splits["test"]))

    @property
    def sampled_captions(self) -> list[str]:
        """Return a random sample of captions for language identification."""
        return Random(0).sample(self.captions, min(len(self.captions), _CAPTIONS_FOR_LANGUAGE))


@contextmanager
def _prefixed_errors(name: str) -> Iterator[None]:
    """Add to an error the name of the option that causes it."""
    try:
        yield
    except PipelineError as error:
        raise type(error)(f"{name}: {error}") from error


def _analyse(pairs: str, images: str | None, pack: LanguagePack) -> _PairsAnalysis:
    """Read the files of pairs, find the role of each column, then check the images."""
    probe = PairsConfig(files=(pairs,), caption_column="?", path_column="?", images=images, lang=pack.code)
    with _prefixed_errors("--pairs"):
        file = upstream_files(probe)[0]
        samples = _samples(file)
    where = images or str(file.parent)
    with _prefixed_errors("--images"):
        opened = open_images(where)
    with closing(opened):
        config, doubts = _columns(samples, probe, pack, opened)
        look = _PairsAnalysis(config=config, where=where, doubts=doubts)
        with _prefixed_errors("--pairs"):
            SOURCE_KINDS["pairs"].check(config)
            _read_rows(look)
        if config.path_column:
            with _prefixed_errors("--images"):
                _find_images(look, opened)
            _try_images(look)
    _find_languages(look, pack)
    return look


def _samples(path: Path) -> dict[str, list[str]]:
    """Return the columns of a file with the texts of its first rows.

    Raises:
        InputError: the file is not a table with two columns of text, has no rows, or is not UTF-8.
    """
    try:
        columns = text_columns(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    trouble = next((found.detail for column in columns if (found := text_trouble(column))), None)
    if len(columns) < 2 and not trouble:
        raise InputError(
            f"{path} has {counted(len(columns), 'column')} of text ({', '.join(columns)}), but pairs need one of "
            "images and one of captions: columns are separated by commas in .csv files, by tabs in .tsv files"
        )
    columns = [column for column in columns if columns.count(column) == 1]
    entries = list(islice(read_table(path, columns, lambda text: False), _ROWS_FOR_COLUMNS))
    if not entries:
        raise InputError(f"{path} has columns but no rows")
    bad = [entry for entry in entries if entry.trouble and entry.trouble.reason == "bad_encoding"]
    if trouble or len(bad) > len(entries) / 2:
        raise InputError(
            f"{path} is not UTF-8 ({trouble or f'first invalid line: {bad[0].line}'}): save it as UTF-8, or convert "
            f"it, as in `iconv -f WINDOWS-1251 -t UTF-8 {shlex.quote(str(path))} > utf8{path.suffix}`"
        )
    cells = {column: [entry.values.get(column) for entry in entries] for column in columns}
    return {
        column: [value.strip() for value in values if isinstance(value, str) and value.strip()]
        for column, values in cells.items()
    }


def _columns(
    samples: Samples, probe: PairsConfig, pack: LanguagePack, opened: ImageFiles
) -> tuple[PairsConfig, list[str]]:
    """Return the settings for the columns of images, captions and facts, and remarks about doubtful columns."""
    image, is_web, others = _image_column(samples, probe, opened)
    doubts = [f'"{other}" may also name images: if so, change path_column or url_column' for other in others]
    facts: dict[str, Any] = {}
    for column, values in samples.items():
        for name, (names, fits) in _FACTS.items():
            if _key(column) not in names or name in facts or column == image:
                continue
            if name == "lang_column" and pack.code not in values:
                doubts.append(f'"{column}" never contains {pack.code}, so it is not used as the language of captions')
            elif _share(values, fits) >= 0.9:
                facts[name] = column
    rest = {column: values for column, values in samples.items() if column not in (image, *facts.values())}
    caption, others = _caption_column(rest, image, probe, pack)
    doubts += [
        f'"{other}" may also contain captions: if so, change caption_column, or set source_caption_column if '
        f'"{caption}" was translated from it'
        for other in others
    ]
    web, path = (image, None) if is_web else (None, image)
    return replace(probe, caption_column=caption, url_column=web, path_column=path, **facts), doubts


def _key(column: str) -> str:
    return column.strip().casefold().replace(" ", "_").replace("-", "_")


def _share(values: Sequence[str], fits: Callable[[str], bool]) -> float:
    return sum(map(fits, values)) / len(values) if values else 0.0


def _image_column(samples: Samples, probe: PairsConfig, opened: ImageFiles) -> tuple[str, bool, list[str]]:
    """Return the column of images, whether it contains URLs, and other possible columns of images.

    A column of existing files is preferred to one of other image file names, and both to one of URLs.

    Raises:
        InputError: there is no column of images, or no header line.
        SettingsError: `--images` is given for a column of URLs.
    """
    ranks: dict[str, tuple[bool, bool, bool, bool]] = {}
    for column, values in samples.items():
        is_web = _share(values, is_web_url) >= 0.5
        is_there = not is_web and _share(values[:50], lambda name: _size(opened, name) is not None) >= 0.5
        looks = _share(values, lambda text: is_image_name(text.partition("?")[0])) >= 0.5
        if is_there or is_web or looks:
            named = not _IMAGE_NAMES.isdisjoint(_key(column).split("_"))
            ranks[column] = (is_there, looks and not is_web, looks, named)
    if not ranks:
        raise InputError(
            f"--pairs: {probe.files[0]} has no column of images: none of {', '.join(samples)} contains file names such "
            "as photo.jpg, or URLs"
        )
    best = max(ranks, key=lambda column: ranks[column])
    if is_image_name(best) or is_web_url(best):
        raise InputError(
            f"--pairs: {probe.files[0]} has no header line (its first one names {best}): add one, such as image,caption"
        )
    is_web = _share(samples[best], is_web_url) >= 0.5
    if is_web and probe.images:
        raise SettingsError(f'--images is for file names, but the column "{best}" contains URLs: leave --images out')
    return best, is_web, [column for column in ranks if column != best]


def _size(opened: ImageFiles, name: str) -> int | None:
    """Return the size of an image file in bytes, or None if it cannot be read."""
    try:
        return opened.size(name)
    except OSError:
        return None


def _caption_column(samples: Samples, image: str, probe: PairsConfig, pack: LanguagePack) -> tuple[str, list[str]]:
    """Return the column of captions and other possible ones; the language of the texts counts more than column names.

    Raises:
        InputError: there is no column of captions.
    """
    code = detectable_code(pack, "cascade")
    identify = language_identifier(code, candidates=[SOURCE]) if code else None
    ranks: dict[str, tuple[bool, bool, int, float]] = {}
    for column, values in samples.items():
        if _share(values, _is_text) < 0.5:
            continue
        verdicts = identify(values[:200]) if identify else []
        num_spoken = sum(verdict.language == canonical_code(code or "") for verdict in verdicts)
        key = _key(column)
        place = _CAPTION_NAMES.index(key) if key in _CAPTION_NAMES else len(_CAPTION_NAMES)
        num_words = sum(map(count_words, values)) / len(values)
        ranks[column] = (num_spoken * 2 > len(verdicts), pack.code in key.split("_"), -place, num_words)
    if not ranks:
        raise InputError(
            f'--pairs: {probe.files[0]} has no column of captions: apart from "{image}", none of its columns '
            f"({', '.join(samples) or 'there is no other'}) contains texts"
        )
    best = max(ranks, key=lambda column: ranks[column])
    likely = [column for column, rank in ranks.items() if rank[1] or rank[2] > -len(_CAPTION_NAMES) or rank[3] >= 2]
    return best, [column for column in likely if column != best]


def _is_text(text: str) -> bool:
    return any(map(str.isalpha, text)) and not is_web_url(text) and not is_image_name(text)


def _read_rows(look: _PairsAnalysis) -> None:
    """Read the rows with the reader of a build, and count their contents.

    Raises:
        InputError: no row is a pair.
    """
    for row in islice(SOURCE_KINDS["pairs"].read(look.config), MAX_ROWS):
        look.num_rows += 1
        if isinstance(row, MalformedRow):
            look.malformed[row.reason] += 1
        elif isinstance(row, UpstreamRow):
            look.captions.append(row.caption.strip())
            look.num_short += count_words(row.caption) < 2
            look.images[row.url or row.path or ""] = None
            look.languages[row.lang] += 1
            look.splits.update([row.split] if row.split else [])
    if not look.captions:
        raise InputError(f"no row of {look.config.files[0]} is a pair of image and caption: {_counts(look.malformed)}")


def _find_images(look: _PairsAnalysis, opened: ImageFiles) -> None:
    """Record the images that do not exist, and the total size of the others.

    Raises:
        InputError: no image exists.
    """
    for name in look.images:
        size = _size(opened, name)
        look.num_bytes += size or 0
        look.missing += [name] if size is None else []
    if look.num_images:
        return
    first, column, above = look.missing[0], look.config.path_column, Path(look.where).parent
    advice = f'use --images DIR to name the folder, zip or tar that contains the files of column "{column}"'
    if Path(first).is_absolute():
        advice = f'names in column "{column}" are absolute, but must be relative to this folder'
    elif (above / first).is_file():
        advice = f'names in column "{column}" start one folder higher: use --images {shlex.quote(str(above))}'
    raise InputError(f"none of {counted(len(look.images), 'image')}, such as {first}, is in {look.where}: {advice}")


def _try_images(look: _PairsAnalysis) -> None:
    """Decode some of the images with the decoder of a build, in child processes, and record the outcomes."""
    there = list(look.images.keys() - set(look.missing))
    some = Random(0).sample(sorted(there), min(len(there), _IMAGES_TRIED))
    with ImageWorkers() as workers:
        names = ("drop_reason", "original_width", "original_height")
        images = workers.normalise_local(look.where, some, NormaliseConfig())
        facts: list[dict[str, Any]] = [{name: image.get(name) for name in names} for image in images]
    look.tried = Counter(row["drop_reason"] or "" for row in facts)
    look.sides = [min(row["original_width"], row["original_height"]) for row in facts if row["drop_reason"] is None]


def _find_languages(look: _PairsAnalysis, pack: LanguagePack) -> None:
    """Identify the languages of the captions, and decide whether they must be translated."""
    code = detectable_code(pack, "cascade")
    if look.config.lang_column:
        others = (lang for lang, _ in look.languages.most_common() if lang != pack.code)
        look.source_language = next((lang for lang in others if re.fullmatch("[a-z]+", lang)), None)
        return
    captions = look.sampled_captions
    verdicts = language_identifier(code or SOURCE, candidates=[SOURCE])(captions)
    if code is not None:
        drops = wrong_language(verdicts, captions)
        look.foreign = Counter((drop.detail or "").split()[0] for drop in drops if drop)
        for language, count in look.foreign.most_common(1):
            if count > len(captions) / 2:
                look.source_language = language
                look.config = replace(look.config, lang=language)
    for likeliest, count in Counter(verdict.language for verdict in verdicts).most_common(1):
        if count > len(captions) / 2 and likeliest not in (None, canonical_code(code or ""), look.source_language):
            look.doubts.append(
                f'"{look.config.caption_column}" seems to be in {likeliest}: is --language {pack.code} right?'
            )


# --- Printed lines --------------------------------------------------------------------------------------------------


def _some(texts: Sequence[str]) -> str:
    return ", ".join([*texts[:_MOST_NAMED], *(["..."] if len(texts) > _MOST_NAMED else [])])


def _counts(counter: Counter[str]) -> str:
    return _some([f"{name} {count:,}" for name, count in counter.most_common()])


def _found(look: _PairsAnalysis, spoken: Language) -> Iterator[Line]:
    """Yield the facts about the user's files."""
    config, num_captions = look.config, len(look.captions)
    rows = f"{look.num_rows:,} rows{' (no more were read)' if look.num_rows == MAX_ROWS else ''}: "
    rows += f"{counted(num_captions, 'caption')} of {counted(len(look.images), 'image')}"
    if look.malformed:
        rows += f"; {look.malformed.total():,} are not pairs and will be rejected: {_counts(look.malformed)}"
    yield Line("pairs", rows)
    if config.url_column:
        hosts = Counter(urlsplit(url).hostname or "" for url in look.images)
        urls = f"URLs on {counted(len(hosts), 'host')} ({_counts(hosts)}), from which a build fetches them"
        yield Line("images", f'column "{config.url_column}": {urls}')
    else:
        there = f"{look.num_images:,} of {len(look.images):,} are in {look.where}, {look.num_bytes / 1e6:,.1f} MB"
        there += f"; missing: {_some(look.missing)}" if look.missing else ""
        yield Line("images", f'column "{config.path_column}": {there}')
        bad = Counter({reason: count for reason, count in look.tried.items() if reason})
        tried = f"test: {look.tried['']} of {look.tried.total()} decoded images are good"
        tried += f", with {min(look.sides)} to {max(look.sides)} pixels on the shorter side" if look.sides else ""
        yield Line("", tried + (f"; a build will drop {_counts(bad)}" if bad else ""))
    if config.lang_column:
        languages = f'languages by column "{config.lang_column}": {_counts(look.languages)}'
    elif look.foreign is None:
        languages = f"assumed to be {spoken.title}, which no engine here can identify"
    else:
        num_sampled, num_foreign = len(look.sampled_captions), look.foreign.total()
        languages = f"of {num_sampled:,} captions, {num_sampled - num_foreign:,} may be {spoken.title}"
        languages += (
            f", {num_foreign:,} are certainly in another language: {_counts(look.foreign)}" if num_foreign else ""
        )
    short = f"{look.num_short:,} of {num_captions:,} are a single word"
    yield Line("captions", f'column "{config.caption_column}": {languages}; {short}')
    if config.split_column:
        what = "kept" if look.keeps_splits else "not kept: they need train, and val or test"
        yield Line("splits", f'column "{config.split_column}": {_counts(look.splits)}; {what}')
    if look.is_own:
        yield Line("rights", "exports will contain the images: if you may not pass them on, set redistribution = false")
    for doubt in look.doubts:
        yield Line("doubtful", f"column {doubt}")
    if encoder_here(spoken.pack) is None:
        known = (tower for tower in find_towers(spoken.pack) if tower.reads(spoken.pack.code))
        for tower in [tower for tower in known if tower.place.startswith("pip install")][:1]:
            use = f"{tower.place}, remove the recipe, and init again to use {tower.name}"
            yield Line("encoder", f"none on this machine reads {spoken.title}: {use}")


def _commands(name: str, look: _PairsAnalysis | None, code: str, source: str | None) -> Iterator[Line]:
    """Yield the commands to try next, with their descriptions."""
    contact = "" if look and look.config.path_column else " --set fetch.contact=you@example.org"
    if look is None:
        yield Line("vernaclip download", "list sources, files, sizes and licenses")
        yield Line('vernaclip download wit --accept "CC BY-SA 3.0" --only "*-00000-of-*"', f"captions in {code}")
        yield Line('vernaclip download mscoco --accept "CC BY 4.0"', "captions in English")
        yield Line('vernaclip download cc3m --accept "Conceptual Captions terms"', "more captions in English")
    if source:
        yield Line(f"vernaclip mt install --from {source} --to {code}", "once: install an engine (docs/translation.md)")
    if look:
        yield Line(f"vernaclip towers --language {code}", "list pretrained towers: an encoder of the language is best")
    yield Line(f"vernaclip build {name}.toml --dry-run{contact}", "see what the rules would drop, with examples")
    yield Line(f"vernaclip run {name}.toml{contact}", "make dataset, model and scores; run it again to resume")
    yield Line(f"vernaclip report {name}", "write the dataset's report, a page for browsers")
    if look:
        long = [caption for caption in look.captions if count_words(caption) > 1] or look.captions
        query = shlex.quote(min(long, key=lambda text: (len(text), text)))
        yield Line(f"vernaclip search {query} --dataset {name}", "find the images that match a text")


# --- Written files --------------------------------------------------------------------------------------------------


def _written_path(place: str) -> str:
    """Return a path for the recipe: relative to the working folder, into which the recipe is written, or absolute."""
    path = Path(place).expanduser()
    if "://" in place or (not path.is_absolute() and ".." not in path.parts):
        return place
    path, here = path.resolve(), Path.cwd().resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _toml(value: str) -> str:
    """Return a text as a TOML string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _written(template: str, **values: object) -> bytes:
    """Return a template of `flows/pages` filled with values."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # noqa: S701  TOML, not HTML
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters["toml"] = _toml
    return environment.from_string((files("flows") / "pages" / template).read_text("utf-8")).render(values).encode()


def _pairs_settings(look: _PairsAnalysis, pack: LanguagePack) -> dict[str, Any]:
    """Return the values of a recipe for the user's own pairs, with settings that fit their number."""
    encoder = encoder_here(pack)
    val, test = _held_out(look.num_images)
    share_short = look.num_short / len(look.captions)
    num_train = look.num_images * (1 - val - test)
    if look.keeps_splits:
        num_train = look.num_images * look.splits["train"] / look.splits.total()
    batch_size = next((size for size in (128, 64, 32, 16, 8) if size * 4 <= num_train), 4)
    epochs = min(60, max(10, int(_SAMPLES_SEEN // max(1, num_train))))
    is_small = look.num_images < _FEW_IMAGES
    return {
        "pairs": look.config,
        "files": _written_path(look.config.files[0]),
        "images": _written_path(look.where),
        "facts": [(name, column) for name in _FACTS if (column := getattr(look.config, name))],
        "source_language": look.source_language,
        "share_short": f"{share_short:.0%}",
        "min_words": 1 if share_short > 0.05 else 2,
        "is_own": look.is_own,
        "keeps_splits": look.keeps_splits,
        "val": val,
        "test": test,
        "num_train": f"{num_train:,.0f}",
        "epochs": epochs,
        "steps": max(1, round(epochs * num_train / batch_size)) if is_small else None,
        "batch_size": batch_size,
        "encoder": encoder,
        "image_tower": IMAGE_TOWER,
        "ridge": 10.0 if num_train < _FEW_FOR_RIDGE else 1.0,
    }


def _lesson(parallel: str, spoken: Language, look: _PairsAnalysis | None) -> dict[str, Any]:
    """Return the values of a recipe whose text tower learns from an English encoder, by parallel sentences."""
    teacher = encoder_here(find_language(SOURCE).pack)
    if look is None or look.source_language not in (None, SOURCE) or spoken.pack.code == SOURCE:
        raise SettingsError(
            "--parallel teaches a text tower another language than English, to be aligned with images: it needs "
            "--pairs with captions in that language or in English"
        )
    if teacher is None:
        raise SettingsError(
            "--parallel needs an English text encoder on this machine: `vernaclip towers --language en` lists some"
        )
    with _prefixed_errors("--parallel"):
        found = read_parallel(Path(parallel), num_held_out=2)
    num_held_out = min(1000, max(2, len(found.training) // 20))
    return {"teacher": teacher, "parallel": _written_path(parallel), "num_held_out": num_held_out}


def _held_out(num_images: int) -> tuple[float, float]:
    """Return the shares of val and test: about five hundred images each, if there are enough."""
    if num_images < _FEW_IMAGES:
        return 0.0, 0.1 if num_images >= 100 else 0.2
    share = round(min(0.1, max(0.01, 500 / num_images)), 2)
    return share, share

"""Sets as `vernaclip scoreboard` names them: the dataset's own split, test sets of a recipe, others by KEY=VALUE."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from cleaning.languages.engines import canonical_code
from cleaning.languages.identification import (
    Identifier,
    detectable_code,
    detectable_languages,
    language_identifier,
    wrong_language,
)
from cleaning.text.scripts import count_letters
from data_catalog.errors import InputError, PipelineError, SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.sources.image_files import open_images
from data_catalog.sources.mscoco import origin_by_name
from data_catalog.sources.origins import HUMAN, MACHINE, MACHINE_TRANSLATION
from data_catalog.storage.shards import sha256_of
from data_catalog.test_sets.registry import TEST_SET_KINDS
from flows.recipe.recipe import override_values
from flows.recipe.sources import TestSetSettings, read_test_sets
from flows.scores.scored_models import at_home
from flows.scores.translated_captions import CaptionTranslator
from training.class_names import has_several, read_names, read_templates
from training.galleries import (
    BARE_TEMPLATE,
    UNSTATED,
    Gallery,
    LabelledImages,
    TextLanguage,
    labelled_images,
    maker_of,
    makers_note,
)
from training.protocols import PROTOCOLS, Protocol, require_classes, require_gallery

logger = logging.getLogger(__name__)

FOLDERS = "folders"
BARE = "bare"
_PLACES = {"imagenet", "class_names", "templates", "images"}
IMAGENET = "imagenet1k"  # the key of ImageNet's names in files that have several lists
# Kinds whose files hold what people wrote; what others hold, their files do not say.
_PEOPLES = frozenset({"xtd10", "karpathy", "flickr8k", "flickr30k", "crossmodal3600"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSet:
    """A set, and by what its images are known.

    Args:
        identities: of each image of the gallery, in its order; empty where nothing is known but pixels.
        protocol: whose numbers stand beside its scores, if any.
        stated: the language of its captions, where its settings say it.
    """

    test_set: Gallery | LabelledImages
    identities: Sequence[frozenset[str]]
    protocol: Protocol | None = None
    stated: str | None = None


def recipe_sets(test_sets: Sequence[TestSetSettings], language: str, translator: CaptionTranslator) -> list[ScoredSet]:
    """The test sets of a recipe whose images are here, with captions; others are logged.

    Args:
        test_sets: of the recipe.
        language: of captions that are scored, where files have several.
        translator: of captions that are to be translated.

    Raises:
        InputError: one cannot be read.
    """
    found = []
    for test_set in test_sets:
        if test_set.kind.images(test_set.config) is None:
            logger.warning("test set %s is not scored: the recipe names no place of its images", test_set.name)
            continue
        test_set.check()
        scored = _captioned(test_set, language, translator)
        if scored is None:
            logger.warning("test set %s is not scored: it has no captions, and guards training alone", test_set.name)
        else:
            found.append(scored)
    return found


def named_sets(
    named: Sequence[Sequence[str]], language: str, pack: LanguagePack, translator: CaptionTranslator
) -> list[ScoredSet]:
    """Sets as `--test-set NAME KEY=VALUE ...` names them.

    Args:
        language: of captions that are looked for, where files have several.
        pack: has class names and templates.
        translator: of captions that are to be translated.

    Raises:
        SettingsError: settings are wrong, or no images are named.
        InputError: files cannot be read, or have no captions.
    """
    found = []
    for name, *words in named:
        try:
            found.append(_named(name, _plain_values(words), language, pack, translator))
        except PipelineError as error:
            raise type(error)(f"--test-set {name}: {error}") from error
    return found


def protocol_sets(words: Sequence[str] | None, language: str, pack: LanguagePack) -> list[ScoredSet]:
    """The sets of `--protocol NAME captions=FILE images=DIR imagenet=DIR class_names=FILE`: one task or both.

    Raises:
        SettingsError: there is no such protocol.
        InputError: files are not those it is about.
    """
    if not words:
        return []
    name, *settings = words
    if name not in PROTOCOLS:
        raise SettingsError(f"--protocol {name}: there is {', '.join(sorted(PROTOCOLS))}")
    protocol, values = PROTOCOLS[name], _plain_values(settings)
    known = {"captions", "images", "imagenet", "class_names"}
    unknown = sorted(set(values) - known)
    if unknown or not ({"captions", "images"} <= set(values) or {"imagenet", "class_names"} <= set(values)):
        raise SettingsError(
            f"--protocol {name} takes captions=FILE images=DIR for retrieval, imagenet=DIR class_names=FILE for "
            f"zero-shot classification, or all four{f', not {unknown[0]}' if unknown else ''}"
        )
    found = []
    if "captions" in values:
        coco = {"kind": "mscoco_it", "files": [values["captions"]], "images": values["images"]}
        gallery = _named(f"{_plain(name)}_retrieval", coco, language, pack)
        require_gallery(protocol, gallery.test_set)
        found.append(replace(gallery, protocol=protocol))
    if "imagenet" in values:
        names = {"class_names": values["class_names"], **_imagenet_key(Path(values["class_names"]))}
        folders = {"kind": FOLDERS, "images": values["imagenet"], **names, "templates": BARE}
        classes = _named(f"{_plain(name)}_imagenet", folders, language, pack)
        require_classes(protocol, classes.test_set)
        found.append(replace(classes, protocol=protocol))
    return found


def _imagenet_key(path: Path) -> dict[str, str]:
    """Which of several lists a file of CLIP_benchmark's has of ImageNet; nothing of one that has one list alone."""
    return {"class_names_key": IMAGENET} if has_several(path) else {}


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _plain_values(words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE texts as a table; what may be a list of files is left to those who read it.

    Raises:
        SettingsError: a text is not of that form, or a value is no text, where one is needed.
    """
    values = override_values(words)
    for key in ("kind", "images", "imagenet", "class_names", "class_names_key", "templates", "templates_key"):
        if not isinstance(values.get(key, ""), str):
            raise SettingsError(f"{key} must be a text, got {values[key]!r}")
    return values | {key: at_home(values[key], key) for key in _PLACES & values.keys()}


def _named(
    name: str, values: dict[str, Any], language: str, pack: LanguagePack, translator: CaptionTranslator | None = None
) -> ScoredSet:
    if not name.replace("_", "").isalnum():
        raise SettingsError("a name must be letters, digits and _")
    if values.get("kind") == FOLDERS:
        return _labelled(name, values, pack)
    kind = values.get("kind", name)
    if kind not in TEST_SET_KINDS:
        problem = f"kind is {kind!r}" if "kind" in values else "kind=... is missing"
        raise SettingsError(f"{problem}: kinds are {', '.join(sorted([*TEST_SET_KINDS, FOLDERS]))}")
    (test_set,) = read_test_sets({name: values}, language) or (None,)
    if test_set is None:
        raise SettingsError("it is switched off by enabled=false: leave it out")
    if test_set.kind.images(test_set.config) is None:
        raise SettingsError("images=... is missing: without pixels there is nothing to score")
    test_set.kind.check(test_set.config)
    found = _captioned(test_set, language, translator)
    if found is None:
        raise InputError("it has no captions: it can guard training data, but not be scored on")
    return found


def _captioned(
    test_set: TestSetSettings, language: str, translator: CaptionTranslator | None = None
) -> ScoredSet | None:
    """A test set of captioned images; who made a caption is told by its settings, or by its kind and its file."""
    if not test_set.captions.translate:
        translator = None
    spoken = language if translator is None else translator.require(test_set).source_language
    config, notes = _in_one_language(test_set.config, spoken)
    found = list(test_set.kind.read(config))
    texts = [(place, text, file) for place, image in enumerate(found) for text, file in _told(image)]
    if not texts:
        return None
    location = test_set.kind.images(config)
    assert location is not None
    makers = [test_set.captions.captions_by or _maker(test_set.kind.kind, file) for _, _, file in texts]
    makers_said, stated = makers_note(makers), test_set.captions.captions_in or _chosen_language(config)
    if translator is not None:
        translations = translator.translated([text for _, text, _ in texts])
        texts = [(place, text, file) for (place, _, file), text in zip(texts, translations, strict=True) if text]
        num_lost = len(makers) - len(texts)
        lost = f"; {num_lost:,} have no translation and are left out" if num_lost else ""
        by = f"({MACHINE_TRANSLATION}) from {spoken} by {translator.engine.fingerprint}"
        makers_said = f"all captions are translated by a machine {by}{lost}; of the originals, {makers_said}"
        makers, stated = [MACHINE] * len(texts), None
    gallery = Gallery(
        name=test_set.name,
        images=[image.name for image in found],
        read=open_images(location).read,
        captions=[text for _, text, _ in texts],
        owners=[place for place, _, _ in texts],
        made_by=makers,
        notes=(makers_said, *notes),
        files=_hashes(test_set.kind.upstream_files(config)),
    )
    identities = [image.identities for image in found]
    return ScoredSet(test_set=gallery, identities=identities, stated=stated)


def _in_one_language(config: Any, language: str) -> tuple[Any, list[str]]:
    """The settings, of several languages with that alone which models are scored in; and what is to be said of it."""
    languages: Sequence[str] = getattr(config, "languages", ())
    same = [code for code in languages if canonical_code(code) == canonical_code(language)]
    if not same or len(languages) == 1:
        return config, []
    return replace(config, languages=tuple(same)), [f"of captions in {', '.join(languages)} those in {language} count"]


def _chosen_language(config: Any) -> str | None:
    """The language of the captions, where a set's files have several and its settings choose one."""
    languages: Sequence[str] = getattr(config, "languages", ())
    code = languages[0].partition("-")[0].lower() if len(languages) == 1 else ""
    return canonical_code(code) if code.isascii() and code.isalpha() else None


def _hashes(files: Sequence[Path]) -> tuple[dict[str, str], ...]:
    return tuple({"name": file.name, "sha256": sha256_of(file)} for file in files)


def _told(image: Any) -> Sequence[tuple[str, str]]:
    return list(zip(image.captions, image.caption_files, strict=True))


def _maker(kind: str, file: str) -> str:
    if kind == "mscoco_it":
        return maker_of(origin_by_name(file).origin)
    return HUMAN if kind in _PEOPLES else UNSTATED


def _labelled(name: str, values: Mapping[str, str], pack: LanguagePack) -> ScoredSet:
    known = {"kind", "images", "class_names", "class_names_key", "templates", "templates_key"}
    unknown = sorted(set(values) - known)
    if unknown or "images" not in values:
        raise SettingsError(
            f"{unknown[0] if unknown else 'images'}: a set of folders takes images=DIR, class_names=FILE.json and "
            f"templates=FILE.json (or {BARE}), with class_names_key and templates_key where a file has several"
        )
    names = _class_names(values, pack)
    found = labelled_images(name, Path(values["images"]), names, _templates(values, pack))
    files = [Path(values[key]) for key in ("class_names", "templates") if values.get(key, BARE) != BARE]
    found = replace(found, files=_hashes(files))
    return ScoredSet(test_set=found, identities=[frozenset()] * len(found.images))


def _class_names(values: Mapping[str, str], pack: LanguagePack) -> Sequence[str] | Mapping[str, str]:
    if "class_names" in values:
        return read_names(Path(values["class_names"]), values.get("class_names_key"))
    if not pack.class_names:
        raise SettingsError(
            f"class_names=FILE.json is missing, and the language pack of {pack.code} has no class names"
        )
    return pack.class_names


def _templates(values: Mapping[str, str], pack: LanguagePack) -> Sequence[str]:
    """The bare template is always scored; others are those of a file, or of the language pack."""
    if values.get("templates") == BARE:
        return (BARE_TEMPLATE,)
    if "templates" in values:
        return read_templates(Path(values["templates"]), values.get("templates_key"))
    return pack.prompt_templates or (BARE_TEMPLATE,)


# So many say of a set of any size what most of its texts are in, within a few hundredths.
_MOST_TEXTS = 1000
# Most captions have enough to be judged alone. Shorter texts are put together: of ImageNet's English names, one by one,
# a tenth are surely not Italian, and three quarters of pieces so long; of the Italian ones, nothing is.
_LETTERS_ALONE, _LETTERS_TOGETHER = 25, 45
_LETTERS_TO_TELL = 15  # the cleaning rule's
# Without lingua, which takes seconds to load and is better where texts are short only.
_ENGINES = ("fast", "cascade")
# Of texts that are in the language, fewer than one in a hundred look as if they were not.
_WORTH_TELLING = 0.1


def with_language(
    test_set: Gallery | LabelledImages, asked: str, pack: LanguagePack, stated: str | None = None
) -> Gallery | LabelledImages:
    """The set, with what language its texts are in, and notes where that is not the one that models are scored in.

    Args:
        asked: the language that models are scored in.
        pack: of the language that the texts should be in: `stated`, or `asked` where nothing is stated.
        stated: what whoever named the set says, or its files.
    """
    is_gallery = isinstance(test_set, Gallery)
    texts = test_set.captions if isinstance(test_set, Gallery) else test_set.class_names
    language = _language_of(texts, asked, pack, stated)
    notes = list(_notes("captions" if is_gallery else "class names", language, pack.code))
    if sum(language.looks_like.values()) > 1 / 2:
        logger.warning("%s: %s", test_set.name, notes[-1])
    return replace(test_set, language=language, notes=(*test_set.notes, *notes))


def _language_of(texts: Sequence[str], asked: str, pack: LanguagePack, stated: str | None) -> TextLanguage:
    engine = next((name for name in _ENGINES if detectable_code(pack, name) is not None), None)
    code = detectable_code(pack, engine)
    if engine is None or code is None:
        return TextLanguage(asked=asked, stated=stated, looks_like={}, num_judged=None)
    candidates = set(pack.confusions).intersection(detectable_languages())
    identify = language_identifier(code, candidates=candidates, engine=engine)
    others, num_judged = _others(texts, identify, pack.confusions)
    shares = {other: round(count / num_judged, 4) for other, count in others.most_common()}
    return TextLanguage(asked=asked, stated=stated, looks_like=shares, num_judged=num_judged)


def _others(texts: Sequence[str], identify: Identifier, confusions: Sequence[str]) -> tuple[Counter[str], int]:
    """How many texts are surely in which other languages, and how many can be judged at all; of a fixed sample."""
    pieces = list(_pieces(_sample(texts)))
    joined = [text for text, _ in pieces]
    verdicts = identify(joined)
    drops = wrong_language(verdicts, joined, confusions=confusions, min_letters=_LETTERS_TO_TELL)
    others: Counter[str] = Counter()
    num_judged = 0
    for (text, count), verdict, drop in zip(pieces, verdicts, drops, strict=True):
        if verdict.language is not None and count_letters(text) >= _LETTERS_TO_TELL:
            num_judged += count
        if drop is not None:
            others[str(verdict.language)] += count
    return others, num_judged


def _sample(texts: Sequence[str]) -> list[str]:
    """At most `_MOST_TEXTS` of them, drawn alike each time: every tenth might all be of one language of two."""
    if len(texts) <= _MOST_TEXTS:
        return list(texts)
    return [texts[place] for place in Random(0).sample(range(len(texts)), _MOST_TEXTS)]


def _pieces(texts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Long texts one by one, short ones put together, and how many texts each piece is made of."""
    held: list[str] = []
    num_letters = 0
    for text in texts:
        own = count_letters(text)
        if own >= _LETTERS_ALONE:
            yield text, 1
            continue
        held.append(text)
        num_letters += own
        if num_letters >= _LETTERS_TOGETHER:
            yield " ".join(held), len(held)
            held, num_letters = [], 0
    if held:
        yield " ".join(held), len(held)


def _notes(what: str, language: TextLanguage, expected: str) -> Iterator[str]:
    if language.stated is not None and canonical_code(language.stated) != canonical_code(language.asked):
        yield f"the {what} are in {language.stated}, as stated, not in {language.asked}"
    if language.num_judged is None:
        yield f"whether the {what} are in {expected} is not known: no identifier of languages knows it"
        return
    if not language.num_judged:
        yield f"whether the {what} are in {expected} cannot be told: they have too few letters"
        return
    share = sum(language.looks_like.values())
    if share < _WORTH_TELLING:
        return
    told = ", ".join(f"{code} {_percent(part)}" for code, part in list(language.looks_like.items())[:3])
    looked_at = f"of {language.num_judged:,} {what} that were looked at, {_percent(share)} look like another language"
    meaning = f": these are hardly scores in {expected}" if share > 1 / 2 else ""
    yield f"{looked_at} than {expected} ({told}){meaning}"


def _percent(share: float) -> str:
    return f"{int(round(100 * share, 2))} %"

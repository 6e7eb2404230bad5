"""Sets as `vernaclip scoreboard` names them: test sets of a recipe, others by KEY=VALUE, a protocol's."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cleaning.languages.engines import canonical_code
from cleaning.languages.identification import other_languages
from data_catalog.errors import InputError, PipelineError, SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.test_sets.registry import TEST_SET_KINDS
from flows.recipe.recipe import override_values
from flows.recipe.sources import TestSetSettings, read_test_sets
from flows.scores.scored_models import at_home
from flows.scores.translated_captions import CaptionTranslator
from training.scores.galleries import (
    FOLDER_SETTINGS,
    Gallery,
    LabelledImages,
    TextLanguage,
    captioned_gallery,
    named_images,
)
from training.scores.protocols import PROTOCOLS, Protocol, protocol_sets

logger = logging.getLogger(__name__)

FOLDERS = "folders"
_PLACES = {"imagenet", "class_names", "templates", "images"}


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
    """Return the test sets of a recipe whose images are here, with captions; others are logged.

    Args:
        test_sets: of the recipe.
        language: of captions that are scored, where files have several.
        translator: of captions that are to be translated.

    Raises:
        InputError: one cannot be read.
    """
    found = []
    for test_set in test_sets:
        if test_set.config.images is None:
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
    """Return sets as `--test-set NAME KEY=VALUE ...` names them.

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


def sets_of_protocol(words: Sequence[str] | None, pack: LanguagePack) -> list[ScoredSet]:
    """Return the sets of `--protocol NAME captions=FILE images=DIR imagenet=DIR class_names=FILE`: one task or both.

    Raises:
        SettingsError: there is no such protocol.
        InputError: files are not those it is about.
    """
    if not words:
        return []
    name, *settings = words
    if name not in PROTOCOLS:
        raise SettingsError(f"--protocol {name}: there is {', '.join(sorted(PROTOCOLS))}")
    protocol = PROTOCOLS[name]
    found = protocol_sets(protocol, _plain_values(settings), pack)
    return [ScoredSet(test_set=test_set, identities=known, protocol=protocol) for test_set, known in found]


def _plain_values(words: Sequence[str]) -> dict[str, Any]:
    """Return KEY=VALUE texts as a table; what may be a list of files is left to those who read it.

    Raises:
        SettingsError: a text is not of that form, or a value is no text, where one is needed.
    """
    values = override_values(words)
    for key in {"kind", "imagenet", *FOLDER_SETTINGS} & values.keys():
        if not isinstance(values[key], str):
            raise SettingsError(f"{key} must be a text, got {values[key]!r}")
    return values | {key: at_home(values[key], key) for key in _PLACES & values.keys()}


def _named(
    name: str, values: dict[str, Any], language: str, pack: LanguagePack, translator: CaptionTranslator
) -> ScoredSet:
    if not name.replace("_", "").isalnum():
        raise SettingsError("a name must be letters, digits and _")
    if values.get("kind") == FOLDERS:
        found = named_images(name, {key: value for key, value in values.items() if key != "kind"}, pack)
        return ScoredSet(test_set=found, identities=[frozenset()] * len(found.images))
    kind = values.get("kind", name)
    if kind not in TEST_SET_KINDS:
        problem = f"kind is {kind!r}" if "kind" in values else "kind=... is missing"
        raise SettingsError(f"{problem}: kinds are {', '.join(sorted([*TEST_SET_KINDS, FOLDERS]))}")
    (test_set,) = read_test_sets({name: values}, language) or (None,)
    if test_set is None:
        raise SettingsError("it is switched off by enabled=false: leave it out")
    if test_set.config.images is None:
        raise SettingsError("images=... is missing: without pixels there is nothing to score")
    test_set.kind.check(test_set.config)
    scored = _captioned(test_set, language, translator)
    if scored is None:
        raise InputError("it has no captions: it can guard training data, but not be scored on")
    return scored


def _captioned(test_set: TestSetSettings, language: str, translator: CaptionTranslator) -> ScoredSet | None:
    """Read a test set of captioned images; of several languages that alone which is scored, or translated."""
    config, notes, stated = test_set.config, [], test_set.captions
    if stated.translate:
        language = translator.require(test_set).source_language
    languages: Sequence[str] = getattr(config, "languages", ())
    same = [code for code in languages if canonical_code(code) == canonical_code(language)]
    if same and len(languages) > 1:
        config = replace(config, languages=tuple(same))
        notes.append(f"of captions in {', '.join(languages)} those in {language} count")
    gallery, identities = captioned_gallery(
        test_set.name, test_set.kind, config, captions_by=stated.captions_by, notes=notes
    )
    if not gallery.captions:
        return None
    if stated.translate:
        return ScoredSet(test_set=translator.translated(gallery), identities=identities)
    return ScoredSet(test_set=gallery, identities=identities, stated=stated.captions_in or _chosen_language(config))


def _chosen_language(config: Any) -> str | None:
    """Return the language of the captions, where a set's files have several and its settings choose one."""
    languages: Sequence[str] = getattr(config, "languages", ())
    code = languages[0].partition("-")[0].lower() if len(languages) == 1 else ""
    return canonical_code(code) if code.isascii() and code.isalpha() else None


def with_language(
    test_set: Gallery | LabelledImages, asked: str, pack: LanguagePack, stated: str | None = None
) -> Gallery | LabelledImages:
    """Return the set with what language its texts are in, and notes where that is not the one models are scored in.

    Args:
        asked: the language that models are scored in.
        pack: of the language that the texts should be in: `stated`, or `asked` where nothing is stated.
        stated: what whoever named the set says, or its files.
    """
    what = "captions" if isinstance(test_set, Gallery) else "class names"
    texts = test_set.captions if isinstance(test_set, Gallery) else test_set.class_names
    others = other_languages(texts, pack)
    notes = list(others.notes(what, pack.code))
    if others.share > 1 / 2:
        logger.warning("%s: %s", test_set.name, notes[-1])
    if stated is not None and canonical_code(stated) != canonical_code(asked):
        notes.insert(0, f"the {what} are in {stated}, as stated, not in {asked}")
    language = TextLanguage(asked=asked, stated=stated, looks_like=others.shares, num_judged=others.num_judged)
    return replace(test_set, language=language, notes=(*test_set.notes, *notes))

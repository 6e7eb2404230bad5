"""Captions of scenes in English, Italian and German that say the same thing, and parallel pairs of them.

`write_pairs` writes the pairs as the TSV that `vernaclip mt train` reads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from data_catalog.errors import DiskError, SettingsError
from data_catalog.sample import english, german, italian
from data_catalog.sample.config import LANGUAGES
from data_catalog.sample.scene import Scene, pick, random_scene, shuffled
from data_catalog.storage.shards import write_atomically

# Language -> what puts a scene into its words, by template and synonym.
_RENDER: dict[str, Callable[[Scene, str, int], str]] = {
    "en": english.render,
    "it": italian.render,
    "de": german.render,
}

_ANY = ("plain", "background", "picture", "drawing", "image_with", "there", "there_background", "background_and")
STYLES = ("lower", "capital", "sentence", "tokenised", "tokenised_sentence")
# "The ring is left of the star" melts articles in many ways: rare words for a translator, so asked for more often.
_WEIGHTS = {"definite": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How a scene is put into words; the same wording means the same in every language.

    Args:
        template: which sentence, one of `templates(scene)`.
        synonym: which of two words for sizes and relations (0: above, large; 1: over, big).
        style: "lower" ("two red stars"), "capital" ("Two red stars"), "sentence" ("Two red stars."), or English as some
            datasets have it, "tokenised" ("a star , drawn") and "tokenised_sentence" ("A star , drawn .").
    """

    template: str
    synonym: int = 0
    style: str = "lower"


def templates(scene: Scene) -> tuple[str, ...]:
    """Names of the templates that fit a scene's number of groups and relation."""
    match scene.relation:
        case "":
            return (*_ANY, "background_with", "seen", "drawn", "only", "predicate")
        case "list":
            return ("plain", "background", "picture", "drawing", "image_with", "background_with", "seen", "drawn")
        case "next":
            return (*_ANY, "seen", "drawn", "definite")
        case "between":
            return (*_ANY, "seen", "definite", "inverted")
    return (*_ANY, "seen", "drawn", "definite", "inverted", "further")


def caption(scene: Scene, lang: str, wording: Wording) -> str:
    """The exact caption of `scene` in `lang`, one of `LANGUAGES`."""
    if lang not in _RENDER:
        raise SettingsError(f"scenes have captions in {', '.join(LANGUAGES)}, not in {lang}")
    return _styled(_RENDER[lang](scene, wording.template, wording.synonym), lang, wording.style)


def captions(scene: Scene, lang: str, *, num: int, rng: Random, styles: Sequence[str] = STYLES) -> list[str]:
    """`num` distinct captions of `scene` in `lang`, each by another template; every scene has at least 7 templates."""
    chosen = shuffled(rng, templates(scene))[:num]
    return [caption(scene, lang, _wording(template, rng, styles)) for template in chosen]


def _wording(template: str, rng: Random, styles: Sequence[str]) -> Wording:
    return Wording(template=template, synonym=int(rng.random() < 0.35), style=pick(rng, styles))


def _styled(text: str, lang: str, style: str) -> str:
    if lang == "en" and style.startswith("tokenised"):
        text = text.replace(",", " ,")
    if style in ("lower", "tokenised"):
        return text
    stop = {"capital": "", "sentence": ".", "tokenised_sentence": " ." if lang == "en" else "."}[style]
    return text[0].upper() + text[1:] + stop


def parallel_pairs(*, seed: int, num_pairs: int, lang: str = "it") -> Iterator[tuple[str, str]]:
    """`num_pairs` pairs of a caption in English and one in `lang` with the same meaning; a pair may occur twice."""
    rng = Random(f"scenes-pairs:{seed}")
    for _ in range(num_pairs):
        scene = random_scene(rng)
        weighted = [name for name in templates(scene) for _ in range(_WEIGHTS.get(name, 1))]
        wording = _wording(pick(rng, weighted), rng, STYLES)
        yield caption(scene, "en", wording), caption(scene, lang, wording)


def write_pairs(path: Path, *, seed: int, num_pairs: int, lang: str = "it") -> None:
    """Write parallel pairs to `path` as UTF-8 TSV: English, tab, the caption in `lang`, one pair a line, no header.

    Raises:
        SettingsError: no captions in `lang`, or no pairs asked for.
        DiskError: the file cannot be written.
    """
    others = [known for known in LANGUAGES if known != "en"]
    if lang not in others:
        raise SettingsError(f"the sample's grammar pairs English with {' or '.join(others)}, not with {lang}")
    if num_pairs < 1:
        raise SettingsError(f"the number of pairs must be at least 1, got {num_pairs}")

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", newline="\n") as file:
            pairs = parallel_pairs(seed=seed, num_pairs=num_pairs, lang=lang)
            file.writelines(f"{source}\t{translation}\n" for source, translation in pairs)

    try:
        write_atomically(path, write)
    except OSError as error:
        raise DiskError(f"{path} cannot be written: {error.strerror}") from error

"""Captions of scenes agree: judged by a checker that knows tables of correct forms and nothing of the generator."""

import re
from pathlib import Path
from random import Random

import pytest

from data_catalog.errors import SettingsError
from data_catalog.sample.grammar import (
    STYLES,
    Wording,
    caption,
    captions,
    parallel_pairs,
    templates,
    write_pairs,
)
from data_catalog.sample.scene import (
    BACKGROUNDS,
    COLOURS,
    PAIR_RELATIONS,
    SHAPES,
    SIZES,
    TRIPLE_RELATIONS,
    Group,
    Scene,
    random_scene,
)

# Every noun of a caption that adjectives and articles may belong to: gender and number.
NOUNS = {}
for singular, plural, gender in (
    *(("cerchio", "cerchi", "m"), ("quadrato", "quadrati", "m"), ("triangolo", "triangoli", "m")),
    *(("cuore", "cuori", "m"), ("rombo", "rombi", "m"), ("rettangolo", "rettangoli", "m"), ("scudo", "scudi", "m")),
    *(("anello", "anelli", "m"), ("esagono", "esagoni", "m"), ("stella", "stelle", "f"), ("croce", "croci", "f")),
    *(("luna", "lune", "f"), ("ellisse", "ellissi", "f"), ("freccia", "frecce", "f")),
):
    NOUNS[singular] = gender + "s"
    NOUNS[plural] = gender + "p"
ALL = {"ms", "fs", "mp", "fp"}
ADJECTIVES = {
    **dict.fromkeys(("blu", "rosa", "viola"), ALL),
    **{f: {"ms", "fs"} for f in ("verde", "arancione", "marrone", "grande")},
    **{f: {"mp", "fp"} for f in ("verdi", "arancioni", "marroni", "grandi")},
    **{f: {"ms"} for f in ("rosso", "giallo", "nero", "bianco", "piccolo", "solo")},
    **{f: {"fs"} for f in ("rossa", "gialla", "nera", "bianca", "piccola", "sola")},
    **{f: {"mp"} for f in ("rossi", "gialli", "neri", "bianchi", "piccoli")},
    **{f: {"fp"} for f in ("rosse", "gialle", "nere", "bianche", "piccole")},
}
COUNTS = {"due": 2, "tre": 3, "quattro": 4}
VOWEL = "[aeiouàèéìòù]"
LO = rf"(?:s(?!{VOWEL})|z)"  # what makes "un" into "uno" and "il" into "lo"
BACKGROUND_WORDS = r"bianco|nero|grigio|azzurro|giallo|rosa"


ARTICLES = r"il|lo|la|l'|i|gli|le|al|allo|alla|all'|ai|agli|alle|del|dello|della|dell'|dei|degli|delle"


def noun_phrases(text: str) -> list[re.Match[str]]:
    """Every shape in an Italian caption, with what belongs to it."""
    noun = "|".join(sorted(NOUNS, key=len, reverse=True))
    adjective = "|".join(sorted(ADJECTIVES, key=len, reverse=True))
    pattern = (
        rf"(?:\b(?P<article>{ARTICLES}) (?=due|tre|quattro))?(?P<determiner>\S+ |\b\w+')"
        rf"(?P<phrase>(?P<before>(?:(?:{adjective}) )*)(?P<noun>{noun})\b(?P<after>(?: (?:{adjective})\b)*))"
    )
    return list(re.finditer(pattern, text))


def check_determiner(determiner: str, number: str, gender: str, following: str) -> bool:
    """Whether an article, contracted preposition or number may stand before a word."""
    if number == "p":
        return determiner in COUNTS
    if gender == "f":
        elided = re.match(VOWEL, following)
        return determiner in ({"un'", "l'", "all'", "dell'"} if elided else {"una", "la", "alla", "della"})
    if re.match(VOWEL, following):
        return determiner in {"un", "l'", "all'", "dell'"}
    if re.match(LO, following):
        return determiner in {"uno", "lo", "allo", "dello"}
    return determiner in {"un", "il", "al", "del"}


def complaints(text: str, num_groups: int) -> list[str]:
    """What is wrong with an Italian caption."""
    text = text[0].lower() + text[1:].rstrip(".")
    wrong = [bad for bad in ("  ", " ,", " di il ", " a il ", " di la ", " a la ") if bad in text]
    phrases = noun_phrases(text)
    if len(phrases) != num_groups:
        wrong.append(f"{len(phrases)} noun phrases")
    for phrase in phrases:
        gender, number = NOUNS[phrase["noun"]]
        determiner = phrase["determiner"].strip()
        if not check_determiner(determiner, number, gender, phrase["phrase"]):
            wrong.append(f"{determiner} before {phrase['phrase']}")
        fitting = {"m": ("i", "ai", "dei"), "f": ("le", "alle", "delle")}[gender] if number == "p" else ()
        if phrase["article"] and phrase["article"] not in fitting:
            wrong.append(f"{phrase['article']} before {determiner}")
        adjectives = [*phrase["before"].split(), *phrase["after"].split()]
        wrong += [f"{word} with {phrase['noun']}" for word in adjectives if gender + number not in ADJECTIVES[word]]
    if "sfondo" in text and not re.search(rf"sfondo (?:è )?(?:{BACKGROUND_WORDS})\b", text):
        wrong.append("background")
    return wrong + predicate_complaints(text, phrases)


def predicate_complaints(text: str, phrases: list[re.Match[str]]) -> list[str]:
    """Adjectives and participles behind "è" or "sono", and "disegnato", which agree with the nouns before them."""
    wrong = []
    kinds = {NOUNS[phrase["noun"]] for phrase in phrases}
    if predicate := re.match(r".*?\b(è|sono) (\w+) e lo sfondo", text):
        (kind,) = kinds
        if kind not in ADJECTIVES[predicate[2]] or (predicate[1] == "è") != kind.endswith("s"):
            wrong.append(predicate[0])
    if participle := re.search(r"disegnat(\w)", text):
        plural = len(phrases) > 1 or any(kind.endswith("p") for kind in kinds)
        feminine = all(kind.startswith("f") for kind in kinds)
        if participle[1] != {(0, 0): "o", (0, 1): "a", (1, 0): "i", (1, 1): "e"}[plural, feminine]:
            wrong.append(participle[0])
    return wrong


def check_verbs(text: str, scene: Scene) -> bool:
    """The verb agrees with the subject: one single shape, or more."""
    single = scene.groups[0].count == 1 and scene.relation != "list"
    singular_verbs = re.search(r"\bc'è\b|\bsi vede\b", text, re.IGNORECASE)
    plural_verbs = re.search(r"\bci sono\b|\bsi vedono\b", text, re.IGNORECASE)
    return not (plural_verbs if single else singular_verbs)


def many_scenes(num: int) -> list[Scene]:
    rng = Random(11)
    return [random_scene(rng) for _ in range(num)]


def test_italian_agrees_in_thousands_of_scenes() -> None:
    for scene in many_scenes(3000):
        for template in templates(scene):
            text = caption(scene, "it", Wording(template=template, style="sentence"))
            assert complaints(text, len(scene.groups)) == [], text
            assert check_verbs(text, scene), text


@pytest.mark.parametrize(
    "wrong",
    [
        "due stelle rossi",
        "un stella rossa",
        "una ellisse verde",
        "un scudo blu",
        "uno cerchio rosso",
        "una piccola cerchio rosso",
        "tre cuore neri",
        "le due quadrati blu sono sopra la stella rossa",
        "una stella rossa a destra di la luna blu",
        "due stelle rosse, disegnati su sfondo bianco",
        "la stella è rosso e lo sfondo è bianco",
        "le due stelle è rosse e lo sfondo è bianco",
    ],
)
def test_the_checker_sees_mistakes(wrong: str) -> None:
    assert complaints(wrong, len(noun_phrases(wrong)))


RED_STARS = Group(count=2, colour="red", shape="star")
BLUE_SQUARE = Group(count=1, colour="blue", shape="square")
ELLIPSE = Group(count=1, colour="green", shape="ellipse")
SMALL_SHIELD = Group(count=1, colour="purple", shape="shield", size="small")
SHIELD = Group(count=1, colour="brown", shape="shield")
RINGS = Group(count=3, colour="orange", shape="ring", size="large")


@pytest.mark.parametrize(
    ("groups", "relation", "template", "english", "italian"),
    [
        ([RED_STARS, BLUE_SQUARE], "above", "plain",
         "two red stars above a blue square", "due stelle rosse sopra un quadrato blu"),
        ([RED_STARS, BLUE_SQUARE], "left", "definite",
         "the two red stars are to the left of the blue square",
         "le due stelle rosse sono a sinistra del quadrato blu"),
        ([BLUE_SQUARE, RED_STARS], "right", "definite",
         "the blue square is to the right of the two red stars", "il quadrato blu è a destra delle due stelle rosse"),
        ([ELLIPSE, SHIELD], "next", "definite",
         "the green ellipse is next to the brown shield", "l'ellisse verde è accanto allo scudo marrone"),
        ([SHIELD, ELLIPSE], "right", "definite",
         "the brown shield is to the right of the green ellipse", "lo scudo marrone è a destra dell'ellisse verde"),
        ([SMALL_SHIELD, RINGS], "next", "definite",
         "the small purple shield is next to the three large orange rings",
         "il piccolo scudo viola è accanto ai tre grandi anelli arancioni"),
        ([RINGS], "", "only", "only three large orange rings", "solo tre grandi anelli arancioni"),
        ([ELLIPSE], "", "only", "only one green ellipse", "una sola ellisse verde"),
        ([RED_STARS], "", "drawn",
         "two red stars, drawn on a grey background", "due stelle rosse, disegnate su sfondo grigio"),
        ([ELLIPSE, BLUE_SQUARE], "below", "further",
         "a green ellipse and, further up, a blue square", "un'ellisse verde e, più in alto, un quadrato blu"),
        ([SHIELD], "", "there", "there is a brown shield", "c'è uno scudo marrone"),
        ([ELLIPSE, RED_STARS, SHIELD], "between", "seen",
         "you can see a green ellipse between two red stars and a brown shield on a grey background",
         "si vede un'ellisse verde tra due stelle rosse e uno scudo marrone su uno sfondo grigio"),
        ([SHIELD, RED_STARS, ELLIPSE], "list", "seen",
         "you can see a brown shield, two red stars and a green ellipse on a grey background",
         "si vedono uno scudo marrone, due stelle rosse e un'ellisse verde su uno sfondo grigio"),
        ([SMALL_SHIELD], "", "predicate",
         "the small shield is purple and the background is grey", "il piccolo scudo è viola e lo sfondo è grigio"),
    ],
)  # fmt: skip
def test_exact_captions(groups: list[Group], relation: str, template: str, english: str, italian: str) -> None:
    scene = Scene(groups=tuple(groups), relation=relation, background="grey")
    assert caption(scene, "en", Wording(template=template)) == english
    assert caption(scene, "it", Wording(template=template)) == italian


def test_english_articles_and_plurals() -> None:
    for english, _ in parallel_pairs(seed=4, num_pairs=5000):
        assert not re.search(r"\b(?i:a) [aeiou]|\b(?i:an) [^aeiou]", english), english
        for count, noun in re.findall(
            r"\b(two|three|four|one|an?) (?:[a-z]+ ){0,3}?(" + "|".join(SHAPES) + r")\b", english
        ):
            assert count in ("one", "a", "an"), (count, noun, english)
        assert not re.search(r"\bis (two|three|four)\b|\bare an?\b", english), english


def test_every_word_is_covered_by_the_parallel_pairs() -> None:
    pairs = list(parallel_pairs(seed=2, num_pairs=3000))
    english = " ".join(pair[0].lower() for pair in pairs)
    italian = " ".join(pair[1].lower() for pair in pairs)
    assert all(word in english for word in (*SHAPES, *COLOURS, *BACKGROUNDS, "small", "little", "large", "big"))
    assert all(re.search(rf"\b{word}\b", italian) for word in (*NOUNS, *ADJECTIVES))
    for ending in (".", " .", " ,"):
        assert any(ending in source for source, _ in pairs)
    assert not any(" ," in target or " ." in target for _, target in pairs)


def test_the_same_wording_says_the_same_in_both_languages() -> None:
    numbers = {"two": "due", "three": "tre", "four": "quattro"}
    for english, italian in parallel_pairs(seed=8, num_pairs=2000):
        counts = [numbers[word] for word in re.findall(r"\b(?:two|three|four)\b", english.lower())]
        assert counts == re.findall(r"\b(?:due|tre|quattro)\b", italian.lower())
        assert english[0].isupper() == italian[0].isupper()
        assert english.endswith(".") == italian.endswith(".")


def test_captions_of_one_scene_are_distinct_and_seeded() -> None:
    for number, scene in enumerate(many_scenes(300)):
        texts = captions(scene, "en", num=5, rng=Random(number))
        assert len(set(texts)) == 5
        assert texts == captions(scene, "en", num=5, rng=Random(number))


def test_pictures_seldom_share_a_caption() -> None:
    rng = Random(5)
    texts = [captions(scene, "it", num=1, rng=rng)[0] for scene in many_scenes(600)]
    assert len(set(texts)) > 550


def test_random_scenes_use_everything_and_keep_their_bounds() -> None:
    scenes = many_scenes(3000)
    groups = [group for scene in scenes for group in scene.groups]
    assert {group.shape for group in groups} == set(SHAPES)
    assert {group.colour for group in groups} == set(COLOURS)
    assert {group.size for group in groups} == set(SIZES)
    assert {group.count for group in groups} == {1, 2, 3, 4}
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {scene.relation for scene in scenes} == {"", *PAIR_RELATIONS, *TRIPLE_RELATIONS}
    assert all(group.colour != scene.background for scene in scenes for group in scene.groups)


def test_write_pairs_is_a_byte_stable_tsv(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.tsv", seed=3, num_pairs=200)
    write_pairs(tmp_path / "b.tsv", seed=3, num_pairs=200)
    write_pairs(tmp_path / "c.tsv", seed=4, num_pairs=200)
    data = (tmp_path / "a.tsv").read_bytes()
    assert data == (tmp_path / "b.tsv").read_bytes() != (tmp_path / "c.tsv").read_bytes()
    lines = data.decode("utf-8").splitlines()
    assert len(lines) == 200
    assert all(line.count("\t") == 1 for line in lines)


def test_unknown_language_is_a_config_error() -> None:
    with pytest.raises(SettingsError, match="not in fr"):
        caption(many_scenes(1)[0], "fr", Wording(template="plain"))


def test_styles_are_the_manners_of_the_datasets() -> None:
    scene = Scene(groups=(RED_STARS,), relation="", background="white")
    texts = {style: caption(scene, "en", Wording(template="drawn", style=style)) for style in STYLES}
    assert texts == {
        "lower": "two red stars, drawn on a white background",
        "capital": "Two red stars, drawn on a white background",
        "sentence": "Two red stars, drawn on a white background.",
        "tokenised": "two red stars , drawn on a white background",
        "tokenised_sentence": "Two red stars , drawn on a white background .",
    }

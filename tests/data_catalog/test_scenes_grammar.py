"""Captions of scenes agree: judged by checkers that know tables of correct forms and nothing of the generator."""

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from data_catalog.errors import SettingsError
from data_catalog.sample.grammar import STYLES, Wording, caption, captions, parallel_pairs, templates, write_pairs
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

# --- Italian --------------------------------------------------------------------------------------------------------

# Every noun of a caption that adjectives and articles may belong to: gender and number.
NOUNS: dict[str, str] = {}
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


def italian_complaints(text: str, num_groups: int) -> list[str]:
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


# --- German ---------------------------------------------------------------------------------------------------------

# Form of a noun -> what it may be: gender or "p" for the plural, and case.
ALL_CASES = ("nom", "acc", "dat")
GERMAN_NOUNS: dict[str, set[tuple[str, str]]] = {}
for gender, singular, plural, plural_dative in (
    *(("m", "Kreis", "Kreise", "Kreisen"), ("m", "Stern", "Sterne", "Sternen"), ("m", "Mond", "Monde", "Monden")),
    *(("m", "Ring", "Ringe", "Ringen"), ("m", "Pfeil", "Pfeile", "Pfeilen"), ("m", "Schild", "Schilde", "Schilden")),
    *(("n", "Quadrat", "Quadrate", "Quadraten"), ("n", "Dreieck", "Dreiecke", "Dreiecken")),
    *(("n", "Rechteck", "Rechtecke", "Rechtecken"), ("n", "Sechseck", "Sechsecke", "Sechsecken")),
    *(
        ("n", "Kreuz", "Kreuze", "Kreuzen"),
        ("f", "Raute", "Rauten", "Rauten"),
        ("f", "Ellipse", "Ellipsen", "Ellipsen"),
    ),
):
    GERMAN_NOUNS.setdefault(singular, set()).update((gender, case) for case in ALL_CASES)
    GERMAN_NOUNS.setdefault(plural, set()).update((("p", "nom"), ("p", "acc")))
    GERMAN_NOUNS.setdefault(plural_dative, set()).add(("p", "dat"))
GERMAN_NOUNS["Herz"] = {("n", "nom"), ("n", "acc")}
GERMAN_NOUNS["Herzen"] = {("n", "dat"), ("p", "nom"), ("p", "acc"), ("p", "dat")}

# Word before the adjectives -> what it may stand for, and the ending that adjectives take behind it.
DETERMINERS = {
    "ein": {("m", "nom"): "er", ("n", "nom"): "es", ("n", "acc"): "es"},
    "eine": {("f", "nom"): "e", ("f", "acc"): "e"},
    "einen": {("m", "acc"): "en"},
    "einem": {("m", "dat"): "en", ("n", "dat"): "en"},
    "einer": {("f", "dat"): "en"},
    "der": {("m", "nom"): "e", ("f", "dat"): "en"},
    "die": {("f", "nom"): "e", ("f", "acc"): "e", ("p", "nom"): "en", ("p", "acc"): "en"},
    "das": {("n", "nom"): "e", ("n", "acc"): "e"},
    "dem": {("m", "dat"): "en", ("n", "dat"): "en"},
    "vom": {("m", "dat"): "en", ("n", "dat"): "en"},
    "den": {("m", "acc"): "en", ("p", "dat"): "en"},
    "": {("p", "nom"): "e", ("p", "acc"): "e", ("p", "dat"): "en"},
}
GERMAN_COUNTS = ("zwei", "drei", "vier")
STEMS = ("rot", "gelb", "grün", "blau", "orangefarben", "schwarz", "weiß", "braun", "grau", "hellblau", "klein", "groß")
INVARIABLE = ("lila", "rosa")
# What decides the case of the noun phrases behind it.
GOVERNORS = {
    **dict.fromkeys(("über", "unter", "von", "vom", "neben", "zwischen", "mit", "auf"), "dat"),
    **dict.fromkeys(("gibt", "sieht"), "acc"),
    **dict.fromkeys(("ist", "sind"), "nom"),
}
GERMAN_ADJECTIVE = re.compile(rf"(?:{'|'.join(STEMS)})(?:e|en|er|es|em|)|{'|'.join(INVARIABLE)}")


def german_phrases(text: str) -> Iterator[tuple[str, str, list[str], str]]:
    """Case, determiner, adjectives and noun of every shape in a caption."""
    case, words = "nom", re.findall(r"\w+", text[0].lower() + text[1:] if text.split()[0] not in GERMAN_NOUNS else text)
    for index, word in enumerate(words):
        case = GOVERNORS.get(word, case)
        if word not in GERMAN_NOUNS:
            continue
        start = index
        while start and GERMAN_ADJECTIVE.fullmatch(words[start - 1]):
            start -= 1
        adjectives = words[start:index]
        counted = start > 0 and words[start - 1] in GERMAN_COUNTS
        before = words[start - 1 - counted] if start > counted else ""
        plural_determiner = before if before in ("die", "den") else ""
        yield case, plural_determiner if counted else before, adjectives, word


def german_complaints(text: str) -> list[str]:
    """What is wrong with the noun phrases of a German caption."""
    wrong = []
    for case, determiner, adjectives, noun in german_phrases(text):
        readings = {form for form in GERMAN_NOUNS[noun] if form[1] == case and form in DETERMINERS.get(determiner, {})}
        endings = {DETERMINERS[determiner][form] for form in readings}
        fitting = any(
            all(word in INVARIABLE or any(word == stem + ending for stem in STEMS) for word in adjectives)
            for ending in endings
        )
        if not fitting:
            wrong.append(f"{case}: {determiner} {' '.join(adjectives)} {noun}")
    if " von dem " in text:
        wrong.append("von dem")
    return wrong


def wrong_verbs(text: str, scene: Scene) -> list[str]:
    """Forms of "to be" that do not agree with the shapes, which are the subject wherever the background is not."""
    verbs = re.findall(r"(?<!Hintergrund )\b(?:ist|sind)\b", text)
    return [verb for verb in verbs if (verb == "ist") != (scene.groups[0].count == 1)]


# --- Both -----------------------------------------------------------------------------------------------------------


def complaints(text: str, lang: str, num_groups: int) -> list[str]:
    if lang == "it":
        return italian_complaints(text, num_groups)
    found = len(list(german_phrases(text)))
    return german_complaints(text) + ([] if found == num_groups else [f"{found} noun phrases"])


def many_scenes(num: int) -> list[Scene]:
    rng = Random(11)
    return [random_scene(rng) for _ in range(num)]


@pytest.mark.parametrize("num", [250, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("lang", ["it", "de"])
def test_captions_agree_in_all_scenes(lang: str, num: int) -> None:
    for scene in many_scenes(num):
        for template in templates(scene):
            for synonym in (0, 1):
                text = caption(scene, lang, Wording(template=template, synonym=synonym, style="sentence"))
                assert complaints(text, lang, len(scene.groups)) == [], text
                assert check_verbs(text, scene) if lang == "it" else wrong_verbs(text, scene) == [], text
                assert text[0].isupper(), text
                assert "  " not in text, text


@pytest.mark.parametrize(
    ("lang", "wrong"),
    [
        ("it", "due stelle rossi"),
        ("it", "un stella rossa"),
        ("it", "una ellisse verde"),
        ("it", "un scudo blu"),
        ("it", "uno cerchio rosso"),
        ("it", "una piccola cerchio rosso"),
        ("it", "le due quadrati blu sono sopra la stella rossa"),
        ("it", "una stella rossa a destra di la luna blu"),
        ("it", "due stelle rosse, disegnati su sfondo bianco"),
        ("it", "la stella è rosso e lo sfondo è bianco"),
        ("it", "le due stelle è rosse e lo sfondo è bianco"),
        ("de", "ein rote Stern"),
        ("de", "eine roter Stern"),
        ("de", "ein roter Sterne"),
        ("de", "zwei roten Sterne"),
        ("de", "zwei rote Sternen"),
        ("de", "ein Bild von zwei rote Sterne"),
        ("de", "es gibt ein roter Stern"),
        ("de", "man sieht eine lilae Raute"),
        ("de", "der roter Stern ist über dem blauen Quadrat"),
        ("de", "der rote Stern ist über das blaue Quadrat"),
        ("de", "der rote Stern ist links von dem blauen Quadrat"),
        ("de", "die zwei kleine Monde sind neben der Raute"),
        ("de", "ein roter Stern neben einem gelben Herz"),
    ],
)
def test_the_checkers_see_mistakes(lang: str, wrong: str) -> None:
    num_groups = len(noun_phrases(wrong) if lang == "it" else list(german_phrases(wrong)))
    assert complaints(wrong, lang, num_groups)


RED_STARS = Group(count=2, colour="red", shape="star")
BLUE_SQUARE = Group(count=1, colour="blue", shape="square")
ELLIPSE = Group(count=1, colour="green", shape="ellipse")
SMALL_SHIELD = Group(count=1, colour="purple", shape="shield", size="small")
SHIELD = Group(count=1, colour="brown", shape="shield")
HEART = Group(count=1, colour="pink", shape="heart")
RINGS = Group(count=3, colour="orange", shape="ring", size="large")


@pytest.mark.parametrize(
    ("groups", "relation", "template", "synonym", "english", "lang", "other"),
    [
        ([RED_STARS, BLUE_SQUARE], "above", "plain", 0, "two red stars above a blue square",
         "de", "zwei rote Sterne über einem blauen Quadrat"),
        ([BLUE_SQUARE, HEART], "below", "picture", 1, "a picture of a blue square under a pink heart",
         "de", "ein Bild von einem blauen Quadrat unter einem rosa Herzen"),
        ([ELLIPSE, RINGS], "next", "drawing", 0,
         "a drawing of a green ellipse next to three large orange rings on a grey background",
         "de",
         "eine Zeichnung von einer grünen Ellipse neben drei großen orangefarbenen Ringen auf grauem Hintergrund"),
        ([SMALL_SHIELD, ELLIPSE], "left", "definite", 1, "the little purple shield is left of the green ellipse",
         "de", "der kleine lila Schild ist links neben der grünen Ellipse"),
        ([SMALL_SHIELD, BLUE_SQUARE], "above", "inverted", 0, "above a blue square there is a small purple shield",
         "de", "über einem blauen Quadrat ist ein kleiner lila Schild"),
        ([ELLIPSE], "", "only", 0, "only one green ellipse", "de", "nur eine grüne Ellipse"),
        ([ELLIPSE], "", "only", 0, "only one green ellipse", "it", "una sola ellisse verde"),
        ([RINGS], "", "only", 0, "only three large orange rings", "it", "solo tre grandi anelli arancioni"),
        ([SHIELD], "", "there", 0, "there is a brown shield", "it", "c'è uno scudo marrone"),
        ([SMALL_SHIELD], "", "predicate", 0, "the small shield is purple and the background is grey",
         "de", "der kleine Schild ist lila und der Hintergrund ist grau"),
        ([RED_STARS], "", "drawn", 0, "two red stars, drawn on a grey background",
         "it", "due stelle rosse, disegnate su sfondo grigio"),
        ([ELLIPSE, BLUE_SQUARE], "below", "further", 0, "a green ellipse and, further up, a blue square",
         "it", "un'ellisse verde e, più in alto, un quadrato blu"),
        ([RED_STARS, BLUE_SQUARE], "left", "definite", 0, "the two red stars are to the left of the blue square",
         "it", "le due stelle rosse sono a sinistra del quadrato blu"),
        ([BLUE_SQUARE, RED_STARS], "right", "definite", 0, "the blue square is to the right of the two red stars",
         "it", "il quadrato blu è a destra delle due stelle rosse"),
        ([ELLIPSE, SHIELD], "next", "definite", 0, "the green ellipse is next to the brown shield",
         "it", "l'ellisse verde è accanto allo scudo marrone"),
        ([SHIELD, RED_STARS, ELLIPSE], "list", "seen", 0,
         "you can see a brown shield, two red stars and a green ellipse on a grey background",
         "it", "si vedono uno scudo marrone, due stelle rosse e un'ellisse verde su uno sfondo grigio"),
        ([ELLIPSE, RED_STARS, HEART], "between", "definite", 0,
         "the green ellipse is between the two red stars and the pink heart",
         "de", "die grüne Ellipse ist zwischen den zwei roten Sternen und dem rosa Herzen"),
    ],
)  # fmt: skip
def test_exact_captions(
    groups: list[Group], relation: str, template: str, synonym: int, english: str, lang: str, other: str
) -> None:
    scene = Scene(groups=tuple(groups), relation=relation, background="grey")
    wording = Wording(template=template, synonym=synonym)
    assert caption(scene, "en", wording) == english
    assert caption(scene, lang, wording) == other


def test_english_articles_and_plurals() -> None:
    nouns = "|".join(SHAPES)
    for english, _ in parallel_pairs(seed=4, num_pairs=1500):
        assert not re.search(r"\b(?i:a) [aeiou]|\b(?i:an) [^aeiou]", english), english
        for count, noun in re.findall(rf"\b(two|three|four|one|an?) (?:[a-z]+ ){{0,3}}?({nouns})\b", english):
            assert count in ("one", "a", "an"), (count, noun, english)
        assert not re.search(r"\bis (two|three|four)\b|\bare an?\b", english), english


WORDS = {
    "it": [rf"\b{word}\b" for word in (*NOUNS, *ADJECTIVES)],
    "de": [
        *(rf"\b{word}\b" for word in (*GERMAN_NOUNS, *INVARIABLE, *GERMAN_COUNTS, *DETERMINERS)),
        *(rf"\b{stem}(e|en|er|es|em)\b" for stem in STEMS),
    ],
}


@pytest.mark.parametrize(("lang", "counts"), [("it", ("due", "tre", "quattro")), ("de", ("zwei", "drei", "vier"))])
def test_parallel_pairs_use_every_word_and_say_the_same(lang: str, counts: tuple[str, ...]) -> None:
    pairs = list(parallel_pairs(seed=2, num_pairs=3000, lang=lang))
    english, other = (" ".join(column) for column in zip(*pairs, strict=True))
    words = (*SHAPES, *COLOURS, *BACKGROUNDS, "small", "little", "large", "big")
    assert all(word in english.lower() for word in words)
    assert all(re.search(word, other if lang == "de" else other.lower()) for word in WORDS[lang])
    assert all(any(ending in source for source, _ in pairs) for ending in (".", " .", " ,"))
    assert " ," not in other
    assert " ." not in other
    numbers = dict(zip(("two", "three", "four"), counts, strict=True))
    for source, target in pairs:
        counted = [numbers[word] for word in re.findall(r"\b(?:two|three|four)\b", source.lower())]
        assert counted == re.findall(rf"\b(?:{'|'.join(counts)})\b", target.lower())
        assert source[0].isupper() == target[0].isupper() or target.split()[0] in GERMAN_NOUNS
        assert source.endswith(".") == target.endswith(".")


def test_captions_of_one_scene_are_distinct_and_seeded() -> None:
    firsts = []
    for number, scene in enumerate(many_scenes(300)):
        texts = captions(scene, "en", num=5, rng=Random(number))
        assert len(set(texts)) == 5
        assert texts == captions(scene, "en", num=5, rng=Random(number))
        firsts.append(texts[0])
    assert len(set(firsts)) > 275  # pictures seldom share a caption


def test_random_scenes_use_everything_and_keep_their_bounds() -> None:
    scenes = many_scenes(1500)
    groups = [group for scene in scenes for group in scene.groups]
    assert {group.shape for group in groups} == set(SHAPES)
    assert {group.colour for group in groups} == set(COLOURS)
    assert {group.size for group in groups} == set(SIZES)
    assert {group.count for group in groups} == {1, 2, 3, 4}
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {scene.relation for scene in scenes} == {"", *PAIR_RELATIONS, *TRIPLE_RELATIONS}
    assert all(group.colour != scene.background for scene in scenes for group in scene.groups)


def test_written_pairs_are_a_byte_stable_tsv_with_one_english_for_all_languages(tmp_path: Path) -> None:
    for name, seed, lang in (("a", 3, "it"), ("b", 3, "it"), ("c", 4, "it"), ("d", 3, "de")):
        write_pairs(tmp_path / name, seed=seed, num_pairs=200, lang=lang)
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    rows, german = ([line.split("\t") for line in (tmp_path / name).read_text("utf-8").splitlines()] for name in "ad")
    assert len(rows) == 200
    assert all(len(row) == 2 for row in rows)
    assert [row[0] for row in rows] == [row[0] for row in german]


def test_an_unknown_language_is_refused() -> None:
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

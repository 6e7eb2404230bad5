"""Each rule on rows of real sources, on what looks like them and is a caption, and on texts of every kind.

Examples of each rule are in docs/captions.md as well, and `test_cleaning_docs.py` tries them.
"""

import pytest

from cleaning.checks.boilerplate import BOILERPLATE_RULES, boilerplate_rule

# For each rule what it drops, and what looks like it and stays.
RULES: dict[str, tuple[list[str], list[str]]] = {
    "url": ([], ["see www.example.org"]),
    "file_name": (["Αρχείο:Ο Λευκός Πύργος.JPG"], ["Ο Λευκός Πύργος τη νύχτα.jpg"]),
    "camera_name": (
        [
            *("IMG_20190405_123456_HDR", "IMG-20190405-WA0001", "sam_1234", "dsc_0001_b edit", "DSC_0034 modified"),
            *("Screenshot_20190405-123456_chrome", "Screenshot_2019-04-05-12-34-56-789_com.android.chrome"),
        ],
        [
            *("Image of 2041 people", "Sam 2012 Olympics", "sam 1234", "P 2021", "20190405_123456_sunset"),
            "Screenshot_2019 of a game",
        ],
    ),
    "thumbnail": (
        [
            *("thumb|right|250px", "mini|links|hochkant", "thumbnail for version as of 21 57 29 june 2010"),
            *("Miniatura della versione delle 12:03, 5 mag 2010", "Vignette pour la version du 5 mai 2010 à 12:03"),
        ],
        ["one of them giving thumb up", "thumb|right|a cat on a roof", "links | rechts", "left|center|right"],
    ),
    "date": (
        [
            *("12/05/2019", "1er août 1914", "Samstag, 3. Oktober 2015, 14:00 Uhr", "5 May", "Summer - 2010"),
            *("estate del 1998", "in the summer of 1944", "l'été 1998", "verano de 2010"),
        ],
        [
            *("the - set of 4", "Roma 1998", "la Primavera, 1482", "Primavera, 1882", "Summer - 1890", "Estate 5"),
            *("The Spring 1896", "٥ مايو ٢٠١٠"),
        ],
    ),
    "photo_credit": (
        [
            *("(Photo by Jack Taylor/Getty Images)", "(c) 2010 José María Cuéllar", "Crédit photo : Jean Dupont"),
            *("Foto: Max Mustermann/dpa", "Photo: Bundesarchiv, Bild 183-1990", "Photo by Иван Петров"),
        ],
        [
            *("Foto: Ein Hund im Park", "Foto: Bundesarchiv, Koblenz", "Foto: Schloss Neuschwanstein, Bild 3"),
            *("Foto: 犬が公園で走る", "Foto: Max Mustermann", "Image: Founder of Wikipedia", "(c) Torre Eiffel"),
            "photo by person © an absolute kaleidoscope of color at the saturday morning market !",
        ],
    ),
    "stock_photo": (["-- stock vector #", "Foto Stock"], ["stock photo of a cat"]),
    "wikimedia_maintenance": (
        [
            *("No machine-readable author provided. MPF assumed (based on copyright claims).", "own work by uploader"),
            *("Obra pròpia", "Transferred from en.wikipedia to Commons by Zeimusu using CommonsHelper.", "See below"),
            *("Original uploader was JulieFromVT (Julie Waters) at en.wikipedia", "uploaded to Commons by Zeimusu"),
            "This image (or other media file) is in the public domain because its copyright has expired.",
            "Questo file è licenziato in base ai termini della licenza Creative Commons Attribuzione 3.0",
            *("Questa immagine è stata copiata da wikipedia:en.", "{{Information |Description=Rome |Source=own"),
        ],
        [
            *("Own photo of a cat", "Questa foto mostra un'auto caricata su un camion", "{{en|A cat on a roof}}"),
            *("This picture shows a public domain sign on the wall", "Dieses Bild wird von einem Kind gemalt"),
            *("This image is of a dog wearing a Wikipedia t-shirt", "Original from Commons, London"),
            *("This picture was copied from a painting of a horse", "Transferred to the House of Commons, 1890"),
            "This image (or photo) is of a licensed taxi in the public square",
        ],
    ),
    "placeholder": (
        [
            *("Untitled", "Ohne Titel", "Immagine non disponibile", "No image available", "Figure 12", "n/a"),
            "Click to enlarge",
        ],
        ["no cat", "image of a cat", "a photo not available elsewhere", "picture 3 cats", "nan bread on a plate"],
    ),
    "no_letters": (["\u0301", "؟؟؟ ١٢٣"], ["東", "a1"]),
}
# What every rule has to leave alone; and long rows of its own marks.
OTHER_TEXTS = [
    "",
    "a",
    "東京",
    "cafe\u0301",
    "🙂 two 👩\u200d👩\u200d👧 laughing",
    "\u202eright to left\u202c",
]
LONG_TEXTS = [
    *("a.b-" * 2500, "photo by " + "John " * 2000, "thumb|" * 1666 + "cat", "this image " * 900 + "x", "{{" * 5000),
    *("12 may " * 1430, "Getty Images | " * 666 + "x", "a@" * 5_000, "img_1234 " * 1_111 + "?", "Photo: " * 1428 + "x"),
]


@pytest.mark.parametrize("rule", BOILERPLATE_RULES)
def test_what_a_rule_describes_is_dropped_in_its_name_and_what_says_what_is_seen_stays(rule: str) -> None:
    dropped, kept = RULES[rule]
    for text in dropped:
        assert boilerplate_rule(text, [rule]) == boilerplate_rule(f" {text}\n", [rule]) == rule, text
    assert [text for text in [*kept, *OTHER_TEXTS] if boilerplate_rule(text, [rule])] == []


@pytest.mark.parametrize("text", LONG_TEXTS, ids=[text[:12] for text in LONG_TEXTS])
def test_texts_of_any_length_stay(text: str) -> None:
    rules = [name for name in BOILERPLATE_RULES if name != "no_letters"]
    assert boilerplate_rule(text, rules) is None


def test_rules_are_chosen_and_ordered_by_name() -> None:
    texts = ["12/05/2019", "Foto: dpa", "???"]
    assert [boilerplate_rule(text, ["no_letters", "date"]) for text in texts] == ["no_letters", None, "no_letters"]
    assert [boilerplate_rule(text, []) for text in texts] == [None, None, None]

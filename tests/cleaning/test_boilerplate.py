"""Each rule on rows of real sources, on what looks like them and is a caption, and on texts of every kind."""

import pytest

from cleaning.checks.boilerplate import BOILERPLATE_RULES, boilerplate_rule

# What every rule has to leave alone.
OTHER_TEXTS = [
    "",
    "a",
    "東京",
    "שלום",
    "شخص يركب دراجة",
    "cafe\u0301 e\u0301te\u0301",
    "🙂 two 👩\u200d👩\u200d👧 laughing 🎉",
    "\u202eright to left\u202c",
    "İİİ ẞ ŉ",
    "a.b-" * 2500,
    "photo by " + "John " * 2000,
    "thumb|" * 1666 + "cat",
    "this image " * 900 + "x",
    "12 may " * 1430,
    "{{" * 5000,
    "stock " * 1666,
    "royalty free " * 769,
    "Getty Images | " * 666 + "x",
    "a@" * 5_000,
    "img_1234 " * 1_111 + "?",
    "(" * 10_000,
    "no " * 3333 + "x",
    "Photo: " * 1428 + "x",
]

RULES: list[tuple[str, list[str], list[str]]] = [
    (
        "url",
        ["https://example.org/foto?id=1", "www.example.org", "someone@example.org"],
        ["see www.example.org", "a cat@home"],
    ),
    (
        "file_name",
        [
            "IMG_2041.jpg",
            "Datei:Haus am See.PNG",
            "Αρχείο:Ο Λευκός Πύργος.JPG",
            "Файл:Красная площадь.jpg",
            "città_di_notte.jpeg",
        ],
        ["Ο Λευκός Πύργος τη νύχτα.jpg", "Panorama di Roma.jpg"],
    ),
    (
        "camera_name",
        [
            "DSC00123",
            "IMG 2041",
            "20190405_123456",
            "P1010023",
            "IMG_20190405_123456_HDR",
            "IMG-20190405-WA0001",
            "WP_20150101_001",
            "sam_1234",
            "dsc_0001_b edit",
            "Screenshot_20190405-123456_chrome",
            "Screenshot_2019-04-05-12-34-56-789_com.android.chrome",
            "DSC_0034 modified",
            "img_1234_resized",
            "IMG_1234 modificata",
        ],
        [
            "Sam 2",
            "Image of 2041 people",
            "Sam 2012 Olympics",
            "sam 1234 horse",
            "sam 1234",
            "WP 1234 train",
            "img_2041 sunset",
            "P 2021",
            "vid 2021",
            "20190405_123456_sunset",
            "Screenshot_2019 of a game",
            "img_2041 red",
        ],
    ),
    (
        "date",
        [
            "12 maggio 1998",
            "May 5, 2010",
            "1998-05-12",
            "12/05/2019",
            "Summer 2010",
            "estate 2010",
            "im Sommer 1896",
            "Mars 2020",
            "circa 1900",
            "in 1998",
            "1er août 1914",
            "Samstag, 3. Oktober 2015, 14:00 Uhr",
            "5 de maio de 2010",
            "12 de març de 2004",
            "5 May",
            "summer, 2010",
            "Summer - 2010",
            "Spring/Summer 2015",
            "estate del 1998",
            "in the summer of 1944",
            "l'été 1998",
            "verano de 2010",
            "Winter 1944/45",
        ],
        [
            "the - set of 4",
            "In 1998 the bridge was closed",
            "maggio",
            "Roma 1998",
            "la Primavera, 1482",
            "Primavera 1482",
            "Primavera, 1882",
            "L'Été, 1912",
            "Summer - 1890",
            "The Summer, 1912",
            "la primavera del 1482",
            "Estate 5",
            "The Spring 1896",
            "Spring 12 May",
            "two of 5",
            "٥ مايو ٢٠١٠",
            "2010年5月",
        ],
    ),
    (
        "photo_credit",
        [
            "Photo by Christian Petersen",
            "(Photo by Jack Taylor/Getty Images)",
            "Foto: dpa",
            "Photograph: AP",
            "© Claudio Reyes/AFP/Getty Images",
            "(c) 2010 José María Cuéllar",
            "photo by person",
            "Photo courtesy of the Library of Congress",
            "Crédit photo : Jean Dupont",
            "Foto scattata da Mario Rossi",
            "Foto: Max Mustermann/dpa",
            "Foto: © Ana Torres",
            "(c) Getty Images",
            "Quelle: Bundesarchiv",
            "Source: Wikimedia Commons",
            "Photo: Bundesarchiv, Bild 183-1990",
            "Foto: Bundesarchiv, Bild 183-R79053 / Max Mustermann",
            "Photo: Library of Congress, LC-USZ62-13459",
            "Photo by Иван Петров",
        ],
        [
            "Photo of a cat by the sea",
            "photo : person looks out at the sea .",
            "Foto di Roma",
            "Foto: Ein Hund im Park",
            "Photo: the castle",
            "Foto:",
            "Fotografía: Ana Torres",
            "Foto: Hunde",
            "Bild: Apfel",
            "Foto: Schloss Neuschwanstein",
            "Foto: Bundesarchiv, Koblenz",
            "Foto: Schloss Neuschwanstein, Bild 3",
            "Foto: 犬が公園で走る",
            "Foto: Max Mustermann",
            "Photo by 犬が公園で走る",
            "Photo by 田中",
            "Image: Founder of Wikipedia",
            "(c) Root",
            "(c) Torre Eiffel",
            "photo by person © an absolute kaleidoscope of color at the saturday morning market !",
            "On the left photo: John",
        ],
    ),
    (
        "stock_photo",
        [
            "stock photo",
            "Stock Photo #12345",
            "-- stock vector #",
            "Royalty-free images",
            "royalty - free",
            "Getty Images",
            "iStock",
            "Foto Stock",
            "Alamy Stock Photo",
        ],
        ["a stock photograph of a tie and cuff links", "stock vector ofa funny cartoon owl", "stock photo of a cat"],
    ),
    (
        "no_letters",
        ["???", "🙂🙂", "250 × 300", "\u0301", "؟؟؟ ١٢٣", "@@"],
        ["東", "a1", "שלום"],
    ),
]
DROPPED = [(text, name) for name, texts, _ in RULES for text in texts]


@pytest.mark.parametrize(("text", "name"), DROPPED, ids=[text[:40] for text, _ in DROPPED])
def test_what_a_rule_describes_is_dropped_in_its_name(text: str, name: str) -> None:
    assert boilerplate_rule(text, [name]) == name
    assert boilerplate_rule(f" {text}\n") == name


def test_every_rule_has_examples() -> None:
    in_test_maintenance = {"thumbnail", "wikimedia_maintenance", "placeholder"}
    assert {name for name, *_ in RULES} == set(BOILERPLATE_RULES) - in_test_maintenance


@pytest.mark.parametrize(("name", "captions"), [(name, captions) for name, _, captions in RULES])
def test_what_says_what_is_seen_stays(name: str, captions: list[str]) -> None:
    assert [text for text in [*captions, *OTHER_TEXTS[:9]] if boilerplate_rule(text, [name])] == []


@pytest.mark.parametrize("text", OTHER_TEXTS, ids=[text[:12] for text in OTHER_TEXTS])
def test_texts_of_every_kind_stay(text: str) -> None:
    rules = [name for name in BOILERPLATE_RULES if name != "no_letters"]
    assert boilerplate_rule(text, rules) is None


def test_rules_are_chosen_and_ordered_by_name() -> None:
    texts = ["12/05/2019", "Foto: dpa", "???"]
    assert [boilerplate_rule(text, ["no_letters", "date"]) for text in texts] == ["no_letters", None, "no_letters"]
    assert [boilerplate_rule(text, []) for text in texts] == [None, None, None]

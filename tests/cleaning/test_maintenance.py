"""Rules for what wikis and web sites write where a caption should be, on real sentences and on what looks like them."""

import pytest

from cleaning.checks.boilerplate import boilerplate_rule

RULES: list[tuple[str, list[str], list[str]]] = [
    (
        "thumbnail",
        [
            "thumbnail",
            "Thumb",
            "thumb|right|250px",
            "left|thumb",
            "mini|links|hochkant",
            "250px",
            "Thumbnail for version as of 02:40, 12 May 2022",
            "thumbnail for version as of 21 57 29 june 2010",
            "Miniatura della versione delle 12:03, 5 mag 2010",
            "Vignette pour la version du 5 mai 2010 à 12:03",
        ],
        [
            "one of them giving thumb up",
            "a frame",
            "thumb|right|a cat on a roof",
            "Mini",
            "Left | Right",
            "links | rechts",
            "left|center|right",
        ],
    ),
    (
        "wikimedia_maintenance",
        [
            "No machine-readable author provided. MPF assumed (based on copyright claims).",
            "Own work",
            "own work by uploader",
            "Opera propria",
            "Eigenes Werk",
            "Travail personnel",
            "Trabajo propio",
            "Obra pròpia",
            "Transferred from en.wikipedia to Commons by Zeimusu using CommonsHelper.",
            "Original uploader was JulieFromVT (Julie Waters) at en.wikipedia",
            "uploaded to Commons by Zeimusu",
            "This file is licensed under the Creative Commons Attribution 3.0 licence.",
            "This image was originally uploaded by Zeimusu",
            "This work has been released into the public domain by its author.",
            "This image is in the public domain because it is old.",
            "Cette image est dans le domaine public",
            "Diese Datei ist gemeinfrei",
            "Dieses Bild wurde von Zeimusu hochgeladen",
            "Este archivo está bajo la licencia Creative Commons",
            "Esta imagem está em domínio público",
            "Aquesta imatge és de domini públic",
            "Questa immagine è stata copiata da wikipedia:en.",
            "Questo file è rilasciato nel pubblico dominio",
            "Diese Datei wurde unter der Lizenz „Creative Commons“ veröffentlicht",
            "This image (or other media file) is in the public domain because its copyright has expired.",
            "This file has been (or is hereby) released into the public domain by its author.",
            "This media file is in the public domain in the United States",
            "Ce fichier est disponible selon les termes de la licence Creative Commons Attribution 3.0",
            "Questo file è licenziato in base ai termini della licenza Creative Commons Attribuzione 3.0",
            "Quest'opera è distribuita con licenza Creative Commons",
            "Diese Datei wird unter der GNU-Lizenz veröffentlicht",
            "Dieses Bild wurde von mir selbst erstellt und ist gemeinfrei",
            "CC BY-SA 3.0",
            "public domain",
            "See below",
            "Vedi sotto",
            "Immagine originale",
            "{{Information |Description=Rome |Source=own",
        ],
        [
            "Own photo of a cat",
            "This photo shows the House of Commons",
            "Questa foto mostra un'auto caricata su un camion",
            "This picture shows the license plate of a car",
            "This image shows a police officer checking a licensed taxi",
            "This picture shows a public domain sign on the wall",
            "This image is of a dog wearing a Wikipedia t-shirt",
            "Questa foto mostra un gatto con il copyright sul collo",
            "This photo shows children at the GNU enclosure",
            "This picture was copied from a painting of a horse",
            "This image (or photo) is of a licensed taxi in the public square",
            "Questa foto mostra un operaio licenziato con la sua famiglia",
            "Dieses Bild wurde von mir im Zoo gemalt",
            "Dieses Bild wird von einem Kind gemalt",
            "Cette image est disponible en couleurs",
            "Original from Commons, London",
            "Transferred to the House of Commons, 1890",
            "The original: a cat on a roof",
            "{{en|A cat on a roof}}",
            "Wikipedia: a cat",
            "Opera house",
        ],
    ),
    (
        "placeholder",
        [
            "no caption",
            "Untitled",
            "senza titolo",
            "Ohne Titel",
            "sin título",
            "image not available",
            "Immagine non disponibile",
            "No image available",
            "photo 3",
            "Figure 12",
            "n/a",
            "Click to enlarge",
        ],
        [
            "no cat",
            "image of a cat",
            "a photo not available elsewhere",
            "picture 3 cats",
            "slide",
            "nan bread on a plate",
        ],
    ),
]
DROPPED = [(text, name) for name, texts, _ in RULES for text in texts]


@pytest.mark.parametrize(("text", "name"), DROPPED, ids=[text[:40] for text, _ in DROPPED])
def test_what_a_rule_describes_is_dropped_in_its_name(text: str, name: str) -> None:
    assert boilerplate_rule(text, [name]) == name
    assert boilerplate_rule(f" {text}\n") == name


@pytest.mark.parametrize(("name", "captions"), [(name, captions) for name, _, captions in RULES])
def test_what_says_what_is_seen_stays(name: str, captions: list[str]) -> None:
    assert [text for text in captions if boilerplate_rule(text, [name])] == []

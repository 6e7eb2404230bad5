"""Captions that a dataset ought not to hold: other languages, proper names, broken encodings, bare words."""

from random import Random

from data_catalog.sample.grammar import Wording, caption, templates
from data_catalog.sample.scene import Scene, pick

_OTHER = {
    "de": (
        "Drei rote Sterne über einem blauen Quadrat auf weißem Hintergrund",
        "Ein kleiner grüner Kreis neben einem großen gelben Dreieck",
        "Das Bild zeigt zwei schwarze Herzen und einen orangefarbenen Ring",
        "Vier braune Rechtecke links von einem rosa Kreuz",
        "Auf gelbem Hintergrund sieht man einen großen blauen Mond",
        "Zeichnung von zwei grünen Sechsecken unter einem roten Pfeil",
    ),
    "es": (
        "Tres estrellas rojas encima de un cuadrado azul sobre fondo blanco",
        "Un pequeño círculo verde junto a un gran triángulo amarillo",
        "La imagen muestra dos corazones negros y un anillo de color naranja",
        "Cuatro rectángulos marrones a la izquierda de una cruz rosada",
        "Hay una luna azul muy grande que se ve sobre un fondo amarillo",
        "Dibujo de dos hexágonos verdes debajo de una flecha roja",
    ),
    "fr": (
        "Trois étoiles rouges au-dessus d'un carré bleu sur fond blanc",
        "Un petit cercle vert à côté d'un grand triangle jaune",
        "L'image montre deux cœurs noirs et un anneau de couleur orange",
        "Quatre rectangles bruns à gauche d'une croix rose",
        "On voit une grande lune bleue sur un fond jaune",
        "Dessin de deux hexagones verts en dessous d'une flèche rouge",
    ),
}
_NAMES = (
    "Giuseppe Garibaldi",
    "Basilica di San Pietro",
    "Leonardo da Vinci",
    "Piazza della Signoria, Firenze",
    "Palazzo Vecchio",
    "Monte Bianco",
    "Dante Alighieri",
    "Santa Maria Novella",
    "Camillo Benso di Cavour",
    "Castel Sant'Angelo",
    "Maria Montessori",
    "Fontana di Trevi, Roma",
    "Galileo Galilei",
    "Ponte di Rialto",
    "Alessandro Manzoni",
    "San Gimignano",
    "Rita Levi-Montalcini",
    "Teatro alla Scala, Milano",
    "Giacomo Leopardi",
    "Lago di Garda",
)
_SHORT = {
    "it": ("Stella", "Cuore", "Foto", "Luna"),
    "en": ("star", "heart", "image", "moon"),
    "de": ("Stern", "Herz", "Foto", "Mond"),
}
FOREIGN = (*_OTHER, "en", "it")


def other_language(scene: Scene, lang: str, rng: Random) -> str:
    """A caption in `lang`: of `scene` in English and Italian, of some scene elsewhere."""
    if lang in _OTHER:
        return pick(rng, _OTHER[lang])
    return caption(scene, lang, Wording(template="background", style="capital", synonym=int(rng.random() < 0.35)))


def wrong_language(scene: Scene, expected: str, rng: Random) -> tuple[str, str]:
    """A caption in a language other than `expected`, and that language."""
    choices = ("fr",) if expected == "en" else tuple(lang for lang in FOREIGN if lang != expected)
    lang = pick(rng, choices)
    return other_language(scene, lang, rng), lang


def proper_name(rng: Random) -> str:
    """A caption that is nothing but a name."""
    return pick(rng, _NAMES)


def short_caption(lang: str, rng: Random) -> str:
    """A caption of one word."""
    return pick(rng, _SHORT[lang])


def file_name(rng: Random) -> str:
    """A caption that is a file name."""
    return f"{pick(rng, ('IMG_', 'DSC_', 'DSCN'))}{int(rng.random() * 10_000):04d}.{pick(rng, ('jpg', 'JPG'))}"


def mojibake(scene: Scene, lang: str, rng: Random) -> tuple[str, str]:
    """A caption with an accent (or a dash, where a language has none), UTF-8 read as Windows-1252; and as it was."""
    plain = caption(scene, lang, Wording(template="plain"))
    fitting = [text for t in templates(scene) if not (text := caption(scene, lang, Wording(template=t))).isascii()]
    good = pick(rng, fitting or [f"{plain} – 1"])
    return good.encode("utf-8").decode("cp1252"), good

"""Check for texts that are not captions, such as file names, by named rules with examples.

| rule | example |
|---|---|
| url | https://example.org/a.jpg; www.example.org; someone@example.org |
| file_name | IMG_2041.jpg; Datei:Haus am See.png |
| camera_name | DSC00123; IMG 2041; 20190405_123456 |
| thumbnail | Thumbnail for version as of 02:40, 12 May 2022; thumb|right|250px; thumbnail |
| date | 12 maggio 1998; May 5, 2010; 1998-05-12; Summer 2010; circa 1900 |
| photo_credit | Photo by Christian Petersen; Foto: dpa; © Claudio Reyes/AFP/Getty Images; photo by person |
| stock_photo | stock photo; Stock Photo #12345; royalty - free; Getty Images |
| wikimedia_maintenance | No machine-readable author provided. MPF assumed (based on copyright claims). |
| placeholder | senza titolo; no caption; image not available; photo 3 |
| no_letters | ???; 🙂🙂; 250 × 300 |

The phrases of Wikimedia's rules occur word for word on the pages of Commons and in copies of them: "Transferred from
en.wikipedia to Commons by Zeimusu using CommonsHelper.", "Opera propria", "Original uploader was JulieFromVT (Julie
Waters) at en.wikipedia". ALIGN's paper shows "thumbnail for version as of 21 57 29 june 2010" in its data, and CC3M
has "photo by person".

Rules match the whole text: "Panorama di Roma.jpg", "photo of a cat by the sea" and "In 1998 the bridge was closed"
describe the image and stay. So do "Foto: Ponte Vecchio", which may as well be a name, "Sam 2012 Olympics",
"la Primavera, 1482", "links | rechts" and "This picture shows a public domain sign on the wall".
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from cleaning.checks.definition import CaptionCheck, Captions, Judge
from cleaning.text.suffixes import STOCK_LABEL, WHOLE_CREDIT_OPENING, is_credit
from data_catalog.base.settings import OneOf
from data_catalog.rows.stages import Drop

# Phrases of wikis and web sites in place of captions, in seven languages. Each pattern is matched against whole texts
# in small letters. None has nested repetitions, so that matching takes linear time.

_VERSION: Final = (
    r"(?:thumbnail for version as of|miniatura della versione d(?:elle|el)|vignette pour la version du|"
    r"(?:vorschaubild|miniatur) der version vom|miniatura de la versión d(?:el|e)|miniatura da versão d(?:as|e)|"
    r"miniatura per a la versió de?)"
)
# Options of an image in wiki text. One of the first is required: "links | rechts" may be signs in the image.
_SIZE_OPTION: Final = (
    r"(?:thumb(?:nail)?|mini(?:atur|atura)?|miniaturadeimagen|vignette|frame(?:less|d)?|\d+(?:x\d+)?px)"
)
_IMAGE_OPTION: Final = (
    rf"(?:{_SIZE_OPTION}|border|upright(?:=[\d.]+)?|left|right|center|cent(?:re|ro)|hochkant|links|rechts|zentriert|"
    r"destra|sinistra|gauche|droite|derecha|izquierda)"
)
THUMBNAIL: Final = (
    rf"{_VERSION}.{{0,60}}|(?:{_IMAGE_OPTION}\s?\|\s?){{1,8}}{_SIZE_OPTION}(?:\s?\|\s?{_IMAGE_OPTION}){{0,8}}\s?\|?|"
    rf"{_SIZE_OPTION}(?:\s?\|\s?{_IMAGE_OPTION}){{1,8}}\s?\|?|\d+px|thumb(?:nail)?s?"
)

_OWN_WORK: Final = (
    r"(?:own work|self[- ](?:made|photographed)|opera propria|lavoro proprio|"
    r"travail personnel|œuvre personnelle|eigenes werk|selbst fotografiert|trabajo propio|"
    r"obra propia|obra pr[óò]pria|trabalho próprio|do próprio|treball propi|obra pròpia)"
    r"(?:[ ,(]+(?:by|da|par|von|por)\b[^.:]{0,60})?[.)]?"
)
_WIKI: Final = r"(?:[a-z]{2,3}[.:]wiki(?:pedia|media)?|wiki(?:pedia|media)(?::[a-z]{2,3})?|wikimedia commons)"
# "Original from Commons, London" is a place; notes on files that were moved to Commons name the person or the tool.
_MOVED: Final = (
    r"(?:(?:originally )?(?:transferred|moved|uploaded|copied) (?:from|to)|original(?:ly)? (?:uploader was|from|"
    r"upload)|"
    r"the original uploader was|l'autore del caricamento originale|transféré d[e']|transferid[oa] d[ea]|"
    r"trasferit[oa] da|"
    r"übertragen aus|trasladad[oa] d[ea]|transferit d[e'])"
)
_MOVED_TO_COMMONS: Final = r"(?:originally )?(?:transferred|moved|uploaded|copied) to commons (?:by|from|using|with)\b"
# "Questa immagine", "This file": subjects of sentences, followed by statements that only wikis make about files.
_THIS_FILE: Final = (
    r"(?:this|quest[aoe']|ce|cette|cet|diese[srn]?|est[ea]|aquest[a]?)\s?"
    r"(?:file|image|picture|work|media|photo(?:graph)?|immagine|opera|fotografia|fichier|œuvre|photographie|datei|bild|"
    r"werk|foto|archivo|imagen|obra|ficheiro|arquivo|imagem|fitxer|imatge)(?: file)?(?: \([^)]{1,40}\))?"
)
_SOMEONE: Final = r"[^.:]{1,60}"
# "was originally uploaded by", "è di pubblico dominio": whole phrases, since "this image shows" may be followed by a
# licensed taxi, or a dog in a T-shirt of Wikipedia.
_UNDER: Final = (
    r"under (?:the |an? )?(?:terms|gnu|gfdl|gpl|creative commons|cc\b|public domain|(?:free |public )?licen[cs]e)"
)
_RIGHTS_ENGLISH: Final = (
    r"(?:is|was|has been|were)"
    r"(?: (?:not|now|also|originally|hereby|being|believed to be|made available|\(or is hereby\)))? "
    r"(?:licen[sc]ed under|released (?:in|into|to) the public domain|uploaded (?:by|to|from)|"
    rf"(?:released |published |available )?{_UNDER}|copyrighted|(?:protected|covered) by copyright|"
    rf"(?:transferred|moved|copied) (?:from|to) (?:{_WIKI}|commons\b)|(?:from|on) {_WIKI}|"
    r"(?:in )?(?:the )?public domain\b)"
)
_RIGHTS_ITALIAN: Final = (
    r"(?:è|e'|era|è stat[ao])(?: originariamente)? (?:(?:rilasciat[ao] |pubblicat[ao] )?(?:di|nel|in) pubblico "
    r"dominio|(?:(?:rilasciat|pubblicat|distribuit)[ao] |disponibile )?(?:sotto|con) (?:la |una )?licenza|"
    r"licenziat[ao] (?:in base a|secondo|sotto|con) ?(?:il |la |i |una )?(?:termini|licenza)|caricat[ao] da\b|"
    r"(?:protett|copert)[ao] da (?:copyright|diritto d'autore)|"
    rf"(?:caricat|copiat|trasferit|pres|tratt)[ao] (?:da|su) {_WIKI})"
)
_RIGHTS_FRENCH: Final = (
    r"(?:est|a été|était)(?: \w{2,20}ment)? (?:(?:publiée? |placée? )?(?:sous (?:la |une )?licence|"
    r"(?:dans le|du) domaine public)|protégée? par (?:copyright|le droit d'auteur|les? droits? d'auteur)|"
    r"disponible (?:selon|sous) (?:les termes|(?:la |une )?licence)|"
    rf"mise? à disposition (?:selon|sous)|(?:importée?|transférée?|copiée?) (?:de|depuis|sur) {_WIKI})"
)
_RIGHTS_GERMAN: Final = (
    r"(?:ist|war|wird|wurde|steht|unterliegt)(?: \w{2,20})? (?:gemeinfrei|lizenziert|hochgeladen|urheberrechtlich|"
    rf"von {_SOMEONE} hochgeladen|von mir {_SOMEONE} und ist gemeinfrei|"
    rf"(?:unter|nach) (?:der|den|einer) [^.:]{{0,40}}(?:lizenz|licen[cs]e)|"
    rf"dem urheberrecht|(?:aus|von) (?:der )?{_WIKI})"
)
_RIGHTS_SPANISH: Final = (
    r"(?:es|está|fue|ha sido|se encuentra|se halla)(?: \w{2,20}mente)? (?:(?:de|en)(?:l| el)? dominio público|"
    r"(?:disponible |publicad[ao] |liberad[ao] )?bajo (?:la |una |los )?(?:licencia|términos)|licenciad[ao]|"
    r"protegid[ao] por (?:copyright|derechos? de autor)|"
    rf"subid[ao] (?:por|a {_WIKI})|(?:copiad|transferid|trasladad)[ao] (?:de|desde) {_WIKI})"
)
_RIGHTS_PORTUGUESE: Final = (
    r"(?:é|está|foi|encontra-se)(?: \w{2,20}mente)? (?:(?:de|em|no) domínio público|licenciad[ao]|"
    r"(?:disponível |publicad[ao] )?sob (?:a |uma |os )?(?:licença|termos)|"
    r"protegid[ao] por (?:copyright|direitos? (?:de autor|autorais))|"
    rf"carregad[ao] (?:por|para {_WIKI})|(?:copiad|transferid)[ao] d[aeo] {_WIKI})"
)
_RIGHTS_CATALAN: Final = (
    r"(?:és|està|ha estat|fou|va ser)(?: \w{2,20}ment)? (?:(?:de|en|del|en el) domini públic|llicenciad[ao]|llicenciat|"
    r"(?:disponible |publica(?:t|da) )?sota (?:la |una |els )?(?:llicència|termes)|"
    rf"protegi(?:t|da) per (?:copyright|drets? d'autor)|puja(?:t|da) (?:per|a {_WIKI})|"
    rf"transferi(?:t|da) d[e'] ?{_WIKI})"
)
_RIGHTS: Final = "|".join(
    [
        _RIGHTS_ENGLISH,
        _RIGHTS_ITALIAN,
        _RIGHTS_FRENCH,
        _RIGHTS_GERMAN,
        _RIGHTS_SPANISH,
        _RIGHTS_PORTUGUESE,
        _RIGHTS_CATALAN,
    ]
)
_LICENSE: Final = (
    r"(?:cc[- ]by(?:[- ](?:sa|nc|nd))*(?:[ -][\d.]+)?|creative commons\b.{0,80}|cc0|gfdl|"
    r"gnu free documentation license|"
    r"pd-\w+(?:-\w+)?|(?:in (?:the )?)?public domain|pubblico dominio|domaine public|gemeinfrei|dominio público|"
    r"domínio público|domini públic|no known (?:copyright )?restrictions|copyright expired|all rights reserved|"
    r"tutti i diritti riservati|tous droits réservés|alle rechte vorbehalten|todos los derechos reservados)\.?"
)
_POINTER: Final = (
    r"(?:see (?:below|above|description)|vedi (?:sotto|sopra)|siehe (?:unten|oben|beschreibung)|voir (?:ci-dessous|"
    r"plus bas)|"
    r"véase (?:abajo|más abajo)|ver (?:abajo|abaixo)|vegeu (?:a sota|més avall)|immagine originale|original (?:image|"
    r"file)|"
    r"image originale|originalbild|imagen original|imagem original|imatge original|(?:original )?description page "
    r"(?:is|was)(?:/was)? here)\.?"
)
_TEMPLATE: Final = r"\{\{\s*(?:information|self|own|pd|cc|gfdl|artwork|photograph|delete|move|copy|licen[cs]e)\b.*"
MAINTENANCE: Final = (
    rf"(?s:{_OWN_WORK}|no machine-readable (?:author|source) provided\b.*|{_MOVED}\b.{{0,20}}{_WIKI}\b[^:]{{0,120}}|"
    r"(?:the )?original uploader was\b[^:]{0,120}|l'autore del caricamento originale\b[^:]{0,120}|"
    rf"{_MOVED_TO_COMMONS}[^:]{{0,120}}|{_THIS_FILE}(?:,? which)? (?:{_RIGHTS}).{{0,400}}|{_LICENSE}|{_POINTER}|"
    rf"{_TEMPLATE})"
)

_PICTURE: Final = (
    r"(?:images?|pictures?|photos?|photographs?|foto(?:grafia)?|immagin[ei]|bild(?:er)?|imagen|imagem|imatge)"
)
_MISSING: Final = (
    r"(?:not (?:available|found|provided)|unavailable|missing|removed|coming soon|non disponibile|mancante|"
    r"(?:non|pas) disponible|indisponible|nicht (?:verfügbar|vorhanden)|fehlt|no disponible|não disponível|"
    r"no disponible)"
)
PLACEHOLDER: Final = (
    r"(?:(?:no|without) (?:caption|title|name|description|image|photo|picture|text|alt text)s?"
    r"(?: available| provided| found)?|untitled|untitled[ _-]?(?:document|image|\d{1,6})|"
    r"senza (?:titolo|nome|didascalia)|sans (?:titre|légende)|"
    r"ohne (?:titel|beschreibung)|unbenannt|sin (?:título|descripción)|sem (?:título|legenda|descrição)|"
    r"sense (?:títol|nom)|"
    rf"(?:{_PICTURE}|caption|description|title|descrizione|didascalia|beschreibung) {_MISSING}|"
    rf"{_PICTURE}|(?:{_PICTURE}|figure|figura|fig\.?|abb\.?|abbildung|slide) ?(?:no\.? ?|nr\.? ?|n\. ?|#)?\d{{1,6}}"
    r"(?: (?:of|di|von|de|sur|/) \d{1,6})?|click (?:here|to enlarge|for larger (?:image|version))|"
    r"clicca per ingrandire|cliquez pour agrandir|zum vergrößern (?:an)?klicken|haga clic para ampliar|"
    r"placeholder(?: image)?|default image|image description|null|none|n/?a|nan|undefined|lorem ipsum\b.{0,400})[.!]?"
)


_MONTHS: Final = """
january february march april may june july august september october november december
jan feb mar apr jun jul aug sep sept oct nov dec
gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre
gen mag giu lug ago sett ott dic
janvier février fevrier mars avril mai juin juillet août aout septembre octobre novembre décembre decembre
janv févr avr juil déc
januar jänner februar märz april juni juli oktober dezember jän mär okt dez
enero febrero abril mayo junio julio septiembre setiembre octubre noviembre diciembre ene abr
janeiro fevereiro março maio junho julho setembro outubro novembro dezembro fev
gener febrer març abril maig juny juliol agost setembre octubre novembre desembre
"""
_DAYS: Final = """
monday tuesday wednesday thursday friday saturday sunday
lunedì martedì mercoledì giovedì venerdì sabato domenica
lundi mardi mercredi jeudi vendredi samedi dimanche
montag dienstag mittwoch donnerstag freitag samstag sonntag
lunes martes miércoles jueves viernes sábado domingo
segunda terça quarta quinta sexta feira
dilluns dimarts dimecres dijous divendres dissabte diumenge
"""
_SEASONS: Final = """
spring summer autumn fall winter primavera estate autunno inverno printemps été automne hiver
frühling frühjahr sommer herbst verano otoño invierno verão outono estiu tardor hivern
"""
_AROUND: Final = """
the of in on at c ca circa around about early late mid year years century am pm utc cest cet
il lo l del dell nel nell di anno anni alle ore secolo primi fine inizio
le la du de en vers année années siècle à
der den dem im um am uhr jahr jahre jahrhundert
el los las año años siglo hacia a
o do da em ano anos século cerca
any anys segle cap
st nd rd th er bc ad ac dc a v chr
"""
_ARTICLES: Final = frozenset(("the", "il", "lo", "la", "l", "le", "der", "die", "das", "el", "los", "las", "o", "a"))
_NAMED: Final = frozenset((_MONTHS + _DAYS + _SEASONS).split())
_FILLING: Final = frozenset(_AROUND.split())
_WORD = re.compile(r"\d+|[^\W\d_]+")
_DIGIT = re.compile(r"\d")
_YEAR = re.compile(r"1\d{3}|20\d{2}")
_SEASON: Final = rf"\b(?:{'|'.join(_SEASONS.split())})\b"
# Numbers after a season that can only be years.
_YEAR_FROM_1800: Final = r"(?:1[89]\d\d|20\d\d|2100)\b"
_YEAR_FROM_1900: Final = r"(?:19\d\d|20\d\d|2100)\b"
_find_season = re.compile(_SEASON).search
# "Summer 2010", "Spring/Summer 2015"; "summer, 2010", "Summer - 2010".
_SEASON_OF_YEAR = re.compile(
    rf"{_SEASON}(?: ?[/&–-] ?{_SEASON})?(?: {_YEAR_FROM_1800}|(?:, ?| [–-] ){_YEAR_FROM_1900})"
)
# "The summer of 1944", "l'estate del 1998"; "l'été 1998", which is usual in French and Italian.
_SEASON_WITH_ARTICLE = re.compile(
    rf"{_SEASON} (?:of|del|de|di|do) {_YEAR_FROM_1800}|\bl['’]{_SEASON} {_YEAR_FROM_1800}"
)
_MAX_CHARS = 80


def is_date(text: str) -> bool:
    """Return whether a text is a date, a year or a season of a year and nothing else, in seven languages.

    | text | |
    |---|---|
    | 12 maggio 1998 | a date |
    | Summer 2010 | a date, and so is "Estate 2010" |
    | Mars 2020 | a date: the month, not the planet |
    | im Winter 1944 | a date |
    | Summer, 2010 | a date, and so are "Spring/Summer 2015" and "l'été 1998" |
    | in the summer of 1944 | a date, and so are "estate del 1998" and "verano de 2010" |
    | The Spring 1896 | none: with an article it may be a work's name |
    | la Primavera, 1482 | none |
    | Primavera, 1882 | none: after a comma only a year from 1900 on, before which it is likelier a painting |
    | Estate 5 | none |
    | maggio | none: a name of a month or a season alone has no number |

    A date has a number and a month, a weekday, a season with its year or, from 1000 to 2099, a year: "the - set of 4"
    is none. A season is followed by its year, and has an article only as in the table: "The Spring 1896" may be a
    painting.
    """
    if len(text) > _MAX_CHARS or not _DIGIT.search(text):
        return False
    folded = text.casefold()
    words = _WORD.findall(folded)
    if not all(word.isdigit() or word in _NAMED or word in _FILLING for word in words):
        return False
    without_years = _SEASON_WITH_ARTICLE.sub("", folded)
    if _ARTICLES.isdisjoint(words):
        without_years = _SEASON_OF_YEAR.sub("", without_years)
    if _find_season(without_years):
        return False
    has_number = any(map(str.isdigit, words))
    return has_number and any(word in _NAMED or _YEAR.fullmatch(word) for word in words)


_EXTENSION = r"\.(?:jpe?g|png|gif|tiff?|svg|webp|bmp|heic|avif|xcf|pdf|djvu|webm|ogv|mp4|mov)"
# "Sam 2012 Olympics" is no file: the last of these need their digits directly after them.
_CAMERA = r"(?:(?:img|imag|image|dsc|dscn|dscf|pict|mvi|pxl|gopr|cimg|screenshot)[_ -]?|(?:sam|wp|vid|p)[_-]?)"
_CAMERA_TAIL = (
    r"[_ -](?:\d{1,8}|wa\d{4}|[a-z]{1,2}|edit(?:ed)?|bearbeitet|copy|kopie|copia|crop(?:ped)?|hdr|pano|burst\d{0,4}|"
    r"cover|raw|rich|pro|web|modified|resized|scaled|rotated|retouched|verkleinert|zugeschnitten|geändert|"
    r"(?:modificat|ridimensionat|ritagliat|modificad|recortad)[ao]|(?:modifi|redimensionn)ée?)"
)
# A phone's screenshot has the name of the app after its time.
_SCREENSHOT = r"screenshot[_ -](?:\d{8}[_-]\d{6}|\d{4}(?:-\d\d){5}(?:-\d{1,3})?)_[\w.]{1,40}"
_NAMESPACE = r"(?:file|image|datei|bild|immagine|fichier|archivo|ficheiro|plik|bestand|αρχείο|εικόνα|файл|изображение)"
_URL = r"(?:(?:https?|ftp)://|www\.)\S+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
_FILE_NAME = rf"\S+{_EXTENSION}|{_NAMESPACE}\s?:.*{_EXTENSION}"
_CAMERA_NAME = rf"(?:{_CAMERA}\d{{4,}}|\d{{8}}[_-]\d{{6}}\d{{0,3}})(?:{_CAMERA_TAIL}){{0,8}}|{_SCREENSHOT}"
_opens_a_credit = re.compile(rf"[(\[]?{WHOLE_CREDIT_OPENING}").match
_CREDIT = re.compile(rf"[(\[]?{WHOLE_CREDIT_OPENING}(?P<name>[^:()\[\]]{{1,100}})[)\]]?", re.IGNORECASE)


def _whole(pattern: str) -> Callable[[str], object]:
    """Return a function that matches a whole text in small letters.

    `re` rejects most texts faster with small letters than with IGNORECASE.
    """
    matches = re.compile(pattern).fullmatch
    return lambda text: matches(text.lower())


def _is_credit(text: str) -> bool:
    if not _opens_a_credit(text.lower()):  # much faster than the whole pattern, for the same reason
        return False
    match = _CREDIT.fullmatch(text)
    return match is not None and is_credit(match)


_RULES: Final[dict[str, Callable[[str], object]]] = {
    "url": _whole(_URL),
    "file_name": _whole(_FILE_NAME),
    "camera_name": _whole(_CAMERA_NAME),
    "thumbnail": _whole(THUMBNAIL),
    "date": is_date,
    "photo_credit": _is_credit,
    "stock_photo": _whole(rf"(?:-+ ?)?{STOCK_LABEL}[ .!]?"),
    "wikimedia_maintenance": _whole(MAINTENANCE),
    "placeholder": _whole(PLACEHOLDER),
    "no_letters": lambda text: not any(map(str.isalpha, text)),
}
# Names of the rules in the order in which they are tried: the most specific ones first.
BOILERPLATE_RULES: Final = tuple(_RULES)


def boilerplate_rule(text: str, rules: Sequence[str] = BOILERPLATE_RULES) -> str | None:
    """Return the first of the given rules that matches the whole text; None if none does.

    No rule matches an empty text: the check of lengths has a reason of its own for it.
    """
    text = text.strip()
    for name in rules if text else ():
        if _RULES[name](text):
            return name
    return None


@dataclass(frozen=True, kw_only=True)
class Boilerplate(
    CaptionCheck,
    name="boilerplate",
    reasons={"caption_boilerplate": "the text is not a caption but, for example, a file name, an address or a number"},
    has_rules=True,
):
    """Drop texts that are not captions, such as file names, addresses, dates and credits."""

    boilerplate: bool = True
    boilerplate_rules: tuple[Annotated[str, OneOf(_RULES)], ...] = BOILERPLATE_RULES
    """Boilerplate rules to use, in this order."""

    def bind(self, captions: Captions) -> Judge:
        """Return a function that judges a text; a drop's detail names the rule."""

        def judge(text: str) -> Drop | None:
            rule = boilerplate_rule(text, self.boilerplate_rules)
            return None if rule is None else Drop("caption_boilerplate", rule)

        return judge

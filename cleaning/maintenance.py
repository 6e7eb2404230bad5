"""Patterns of what wikis and web sites write where a caption should be, in seven languages, to be matched in any case.

Each is matched against whole texts, in small letters, has no nested repetition, and so takes linear time.
"""

from typing import Final

_VERSION: Final = (
    r"(?:thumbnail for version as of|miniatura della versione d(?:elle|el)|vignette pour la version du|"
    r"(?:vorschaubild|miniatur) der version vom|miniatura de la versión d(?:el|e)|miniatura da versão d(?:as|e)|"
    r"miniatura per a la versió de?)"
)
# Options of an image in wiki text; without one of the first, "links | rechts" may be what signs in a picture say.
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
# "Original from Commons, London" is a place; what was moved to Commons says by whom or how.
_MOVED: Final = (
    r"(?:(?:originally )?(?:transferred|moved|uploaded|copied) (?:from|to)|original(?:ly)? (?:uploader was|from|"
    r"upload)|"
    r"the original uploader was|l'autore del caricamento originale|transféré d[e']|transferid[oa] d[ea]|"
    r"trasferit[oa] da|"
    r"übertragen aus|trasladad[oa] d[ea]|transferit d[e'])"
)
_MOVED_TO_COMMONS: Final = r"(?:originally )?(?:transferred|moved|uploaded|copied) to commons (?:by|from|using|with)\b"
# "Questa immagine", "This file": what such sentences are about, followed by what only a wiki says of its files.
_THIS_FILE: Final = (
    r"(?:this|quest[aoe']|ce|cette|cet|diese[srn]?|est[ea]|aquest[a]?)\s?"
    r"(?:file|image|picture|work|media|photo(?:graph)?|immagine|opera|fotografia|fichier|œuvre|photographie|datei|bild|"
    r"werk|foto|archivo|imagen|obra|ficheiro|arquivo|imagem|fitxer|imatge)(?: file)?(?: \([^)]{1,40}\))?"
)
_SOMEONE: Final = r"[^.:]{1,60}"
# "was originally uploaded by", "è di pubblico dominio": the phrase itself, since what "this image shows" may be a
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
_LICENCE: Final = (
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
    rf"{_MOVED_TO_COMMONS}[^:]{{0,120}}|{_THIS_FILE}(?:,? which)? (?:{_RIGHTS}).{{0,400}}|{_LICENCE}|{_POINTER}|"
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

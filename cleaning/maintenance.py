"""Patterns of what wikis and web sites write where a caption should be, in seven languages, to be matched in any case.

Each is matched against whole texts, has no nested repetition, and so takes linear time.
"""

from typing import Final

_VERSION: Final = (
    r"(?:thumbnail for version as of|miniatura della versione d(?:elle|el)|vignette pour la version du|"
    r"(?:vorschaubild|miniatur) der version vom|miniatura de la versión d(?:el|e)|miniatura da versão d(?:as|e)|"
    r"miniatura per a la versió de?)"
)
_IMAGE_OPTION: Final = (
    r"(?:thumb(?:nail)?|mini(?:atur|atura)?|miniaturadeimagen|vignette|frame(?:less|d)?|border|upright(?:=[\d.]+)?|"
    r"left|"
    r"right|center|cent(?:re|ro)|hochkant|links|rechts|zentriert|destra|sinistra|gauche|droite|derecha|izquierda|\d+(?:x\d+)?px)"
)
THUMBNAIL: Final = (
    rf"{_VERSION}.{{0,60}}|{_IMAGE_OPTION}(?:\s?\|\s?{_IMAGE_OPTION}){{1,8}}\s?\|?|\d+px|thumb(?:nail)?s?"
)

_OWN_WORK: Final = (
    r"(?:own work|self[- ](?:made|photographed)|opera propria|lavoro proprio|"
    r"travail personnel|œuvre personnelle|eigenes werk|selbst fotografiert|trabajo propio|"
    r"obra propia|obra pr[óò]pria|trabalho próprio|do próprio|treball propi|obra pròpia)"
    r"(?:[ ,(]+(?:by|da|par|von|por)\b[^.:]{0,60})?[.)]?"
)
_WIKI: Final = r"(?:[a-z]{2,3}[.:]wiki(?:pedia|media)?|wiki(?:pedia|media)(?::[a-z]{2,3})?|(?:wikimedia )?commons)"
_MOVED: Final = (
    r"(?:(?:originally )?(?:transferred|moved|uploaded|copied) (?:from|to)|original(?:ly)? (?:uploader was|from|"
    r"upload)|"
    r"the original uploader was|l'autore del caricamento originale|transféré d[e']|transferid[oa] d[ea]|"
    r"trasferit[oa] da|"
    r"übertragen aus|trasladad[oa] d[ea]|transferit d[e'])"
)
# "Questa immagine", "This file": what such sentences are about, followed by what only a wiki says of its files.
_THIS_FILE: Final = (
    r"(?:this|quest[aoe']|ce|cette|cet|diese[srn]?|est[ea]|aquest[a]?)\s?"
    r"(?:file|image|picture|work|media|photo(?:graph)?|immagine|opera|fotografia|fichier|œuvre|photographie|datei|bild|"
    r"werk|foto|archivo|imagen|obra|ficheiro|arquivo|imagem|fitxer|imatge)"
)
_WIKI_TALK: Final = (
    r"(?:wikipedia|wikimedia|to commons\b|su commons\b|auf commons\b|public domain|pubblico dominio|domaine public|"
    r"gemeinfrei|dominio público|"
    r"domínio público|domini públic|licensed|licenza (?:libera|creative)|licence (?:libre|creative)|lizenziert|"
    r"licencia (?:libre|creative)|licença livre|llicència lliure|copyright|diritto d'autore|"
    r"droits? d'auteur|urheberrecht|derechos? de autor|direitos? (?:de autor|autorais)|drets? d'autor|uploaded|"
    r"hochgeladen|"
    r"creative commons|\bgnu\b)"
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
    rf"{_THIS_FILE}\b[^:]{{0,160}}{_WIKI_TALK}.{{0,400}}|{_LICENCE}|{_POINTER}|{_TEMPLATE})"
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

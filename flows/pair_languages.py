"""Binds the language check of captions to a column of parallel captions."""

import logging

from cleaning.language import caption_language, detectable_languages
from data_catalog.language_pack import LanguagePack
from data_catalog.stages import Check

logger = logging.getLogger(__name__)


def column_language(pack: LanguagePack) -> Check | None:
    """The check that a column's texts are in the pack's language; None, with a warning, where langdetect has it not."""
    code = pack.langdetect or pack.code
    if code not in detectable_languages():
        logger.warning("pairs are not checked for being in %r: langdetect does not know that language", pack.code)
        return None
    return caption_language(code, confusions=pack.confusions)

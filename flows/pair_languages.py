"""Binds the language check of captions to a column of parallel captions."""

import logging

from cleaning.config import detectable_code
from cleaning.language import caption_language
from data_catalog.language_pack import LanguagePack
from data_catalog.stages import Check

logger = logging.getLogger(__name__)


def column_language(pack: LanguagePack) -> Check | None:
    """The check that a column's texts are in the pack's language; None, with a warning, where langdetect has it not."""
    code = detectable_code(pack)
    if code is None:
        logger.warning("pairs are not checked for being in %r: langdetect does not know that language", pack.code)
        return None
    return caption_language(code, confusions=pack.confusions)

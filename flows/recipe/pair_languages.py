"""Binds the language check of captions to a column of parallel captions."""

import logging

from cleaning.languages.identification import caption_language, detectable_code
from data_catalog.language_pack import LanguagePack
from data_catalog.stages import Check

logger = logging.getLogger(__name__)


def column_language(pack: LanguagePack) -> Check | None:
    """The check that a column's texts are in the pack's language; None, with a warning, where no engine knows it."""
    code = detectable_code(pack)
    if code is None:
        logger.warning("pairs are not checked for being in %r: no engine knows that language", pack.code)
        return None
    return caption_language(code, confusions=pack.confusions)

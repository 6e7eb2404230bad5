"""Checks of captions: each class declares its settings, its reasons, the columns that it reads and what it drops."""

from cleaning.checks.captions import CHECK_REASONS, CLEAN_REASONS, CheckConfig, CleanConfig
from cleaning.checks.definition import Rule, apply_rules
from cleaning.checks.translation_quality import translation_measure

__all__ = [
    "CHECK_REASONS",
    "CLEAN_REASONS",
    "CheckConfig",
    "CleanConfig",
    "Rule",
    "apply_rules",
    "translation_measure",
]

"""The command `scoreboard`: several models on several sets, as tables on the terminal and as files."""

import tempfile
from argparse import Namespace
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from flows.commands.output import say
from flows.recipe.recipe import load_recipe, override_values
from flows.recipe.settings import build
from flows.scoreboard import Question, make_scoreboard
from flows.tables import plain_table
from training.config import EvaluateConfig


def scoreboard(options: Namespace) -> None:
    """Score models side by side, print the tables and write them.

    Raises:
        ConfigError: see `flows.scoreboard.make_scoreboard`.
    """
    with tempfile.TemporaryDirectory(prefix="vernaclip-") as cache:
        report = make_scoreboard(question_of(options, Path(cache)))
    for section in report.sections:
        say(f"\n{section.title}\n")
        if section.rows:
            say(plain_table(section.rows))
        for note in section.notes:
            say(f"  {note}")
    say(f"\nAs files: {report.folder}")


def question_of(options: Namespace, cache_dir: Path) -> Question:
    """What the options ask for.

    Raises:
        ConfigError: there is neither a recipe nor a language, or settings are wrong.
    """
    recipe = None
    if options.recipe is not None:
        recipe = load_recipe(options.recipe, root=options.root, overrides=options.overrides)
    if recipe is not None and options.language not in (None, recipe.target_language):
        raise ConfigError(f"--language {options.language}: the recipe's target language is {recipe.target_language}")
    language = recipe.target_language if recipe is not None else options.language
    if language is None:
        raise ConfigError("--language is missing: without a recipe, it says what captions and class names are in")
    _require_code(language)
    name = recipe.name if recipe is not None else language
    return Question(
        root=options.root,
        out=options.out or options.root / "scoreboards" / name,
        cache_dir=cache_dir,
        language=language,
        recipe=recipe,
        evaluate=recipe.evaluate if recipe is not None else _evaluate_config(options),
        models=options.models,
        english=options.english,
        test_sets=options.test_sets,
        protocol=options.protocol,
        language_packs=options.language_packs,
        has_split=not options.no_split,
        report_anyway=options.report_anyway,
    )


def _require_code(language: str) -> None:
    try:
        LanguagePack.minimal(language)
    except ConfigError as error:
        raise ConfigError(f"--language {language} names no language: {error}") from error


def _evaluate_config(options: Namespace) -> EvaluateConfig:
    values = override_values(options.overrides)
    others = sorted(set(values) - {"evaluate"})
    if others:
        raise ConfigError(f"--set {others[0]}: without a recipe there are the settings of evaluate only")
    return build(EvaluateConfig, values.get("evaluate", {}), "evaluate")

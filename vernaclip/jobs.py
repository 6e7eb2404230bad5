"""The jobs of the command line as functions: build, train, score, translate."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.reading import reading
from data_catalog.storage.roots import open_root
from flows import jobs
from flows.build.execution import LocalExecutor
from flows.jobs import BuildReport, EvaluateReport, TrainReport
from flows.recipe.engines import one_way_config, packs_of, route_codes, setting_values
from translation.engine import Translation, translate_stream
from translation.memory import with_memory
from translation.registry import open_translator

Place = str | PathLike[str]
Settings = Mapping[str, Any]


def build(recipe: Place, root: Place, *, settings: Settings | None = None, retry_failed: bool = False) -> BuildReport:
    """Build the dataset of a recipe, or find that it is there; a killed build goes on when it is called again.

    >>> import vernaclip
    >>> report = vernaclip.build("scenes.toml", "catalog")
    >>> report.up_to_date, report.funnel[0]["step"]
    (True, 'ingest')

    Args:
        recipe: name of one that comes with vernaclip, or a TOML file.
        root: folder of the catalog.
        settings: that differ from the recipe's, as {"build.workers": 4} or {"build": {"workers": 4}}.
        retry_failed: ask once more for the images that failed for reasons that may pass.

    Raises:
        PipelineError: of the class that says who must act: settings or upstream files are wrong, another process writes
            below the root, a disk is full, or nothing was kept.
    """
    with _job(root) as (place, executor):
        return jobs.build(
            fspath(recipe),
            root=place,
            overrides=settings or {},
            executor=executor,
            retry_failed=retry_failed,
        )


def train(recipe: Place, root: Place, *, settings: Settings | None = None) -> TrainReport:
    """Train a recipe's model on the dataset that was built, go on with a killed run, or find that it is done.

    >>> import vernaclip
    >>> report = vernaclip.train("scenes.toml", "catalog", settings={"train.steps": 3})
    >>> model = vernaclip.open_model(report.folder)

    Args:
        recipe: name of one that comes with vernaclip, or a TOML file.
        root: folder of the catalog.
        settings: that differ from the recipe's; docs/training.md lists those of `train`.

    Raises:
        InputError: nothing was built, or the dataset was not guarded against a test set.
        DamagedError: the dataset is damaged.
    """
    with _job(root) as (place, executor):
        return jobs.train(fspath(recipe), root=place, overrides=settings or {}, executor=executor)


def score(recipe: Place, root: Place, *, settings: Settings | None = None) -> EvaluateReport:
    """Score the newest model of a recipe's dataset on the images that were held out.

    >>> import vernaclip
    >>> scores = vernaclip.score("scenes.toml", "catalog").scores
    >>> found = scores.get("text_to_image_MRR@5")
    >>> found.low <= found.value <= found.high
    True

    Args:
        recipe: name of one that comes with vernaclip, or a TOML file.
        root: folder of the catalog.
        settings: that differ from the recipe's, as {"evaluate.split": "val"}.

    Raises:
        InputError: nothing was trained or held out.
    """
    with _job(root) as (place, executor):
        return jobs.evaluate(fspath(recipe), root=place, overrides=settings or {}, executor=executor)


def translate(
    captions: Sequence[str],
    source: str,
    target: str,
    *,
    settings: Settings | None = None,
    language_packs: Sequence[Place] = (),
    memory: Place | None = None,
) -> list[Translation]:
    """Return a translation of each caption, in order, with its score and what is wrong with it.

    The engine is opened for each call, which takes about a second: give it many captions at once.

    >>> import vernaclip
    >>> engine = {"package": "scenes-en_it.argosmodel"}
    >>> [found.text for found in vernaclip.translate(["two red stars"], "en", "it", settings=engine)]
    ['due stelle rosse']

    Args:
        captions: any number.
        source: language code, such as "en".
        target: likewise.
        settings: of a recipe's `[translate]`, as {"engine": "ctranslate2", "model": "opus-mt-en-it"}. Without any,
            the newest Argos package that is installed translates.
        language_packs: TOML files of languages that vernaclip does not know.
        memory: folder that records translations, and is never asked twice; paid engines want one.

    Raises:
        SettingsError: there is no such language, or a setting is wrong.
        InputError: there is no such package.
        TransientError: the engine cannot work just now.
    """
    config = one_way_config(setting_values(settings or {}))
    codes = route_codes(source, config, target)
    packs = packs_of(codes, [fspath(path) for path in language_packs])
    with tempfile.TemporaryDirectory(prefix="vernaclip-") as cache:
        engine = open_translator(config, [packs[code] for code in codes], cache_dir=Path(cache))
        return list(translate_stream(with_memory(engine, Path(memory) if memory is not None else None), captions))


@contextmanager
def _job(root: Place) -> Iterator[tuple[Path, LocalExecutor]]:
    """Open a root as the command line does, and what does steps in threads of this process."""
    place = Path(root)
    open_root(place, writes=True)
    with disk_errors(place / "catalog"), reading(), LocalExecutor() as executor:
        yield place, executor

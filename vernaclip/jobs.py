"""Run the jobs of the command line as functions: build, train, align, distil, score, translate and search."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

from data_catalog.base.errors import SettingsError
from data_catalog.base.settings import require_list
from data_catalog.catalog.roots import open_root
from data_catalog.disk.barrier import running_job
from flows import jobs
from flows.datasets import BuildReport
from flows.models import DistilReport, EvaluateReport, TrainReport
from flows.recipe.engines import open_one_way, setting_values
from flows.recipe.recipe import load_recipe
from flows.search import chosen_model, search_images, translated_query
from training.use.search import SearchResult
from translation.engine import Translation, translate_stream

R = TypeVar("R")
Place = str | PathLike[str]
Settings = Mapping[str, Any]


def build(recipe: Place, root: Place, *, settings: Settings | None = None, retry_failed: bool = False) -> BuildReport:
    """Build the dataset of a recipe, and resume an interrupted build. Return at once if it is up to date.

    >>> import vernaclip
    >>> report = vernaclip.build("scenes.toml", "catalog")
    >>> report.up_to_date, report.funnel[0]["step"]
    (True, 'ingest')

    Args:
        recipe: name of a recipe that comes with vernaclip, or path of a TOML file.
        root: folder of the catalog.
        settings: settings that replace those of the recipe, as {"build.workers": 4} or {"build": {"workers": 4}}.
            docs/recipes.md lists them.
        retry_failed: fetch again the images whose failure may have been temporary.

    Raises:
        PipelineError: settings or upstream files are wrong, another process writes to the catalog, the disk is full, or
            no pair was kept. The subclass says who must act.
    """
    return _do(jobs.build, recipe, root, settings, retry_failed=retry_failed)


def train(recipe: Place, root: Place, *, settings: Settings | None = None) -> TrainReport | DistilReport:
    """Train a model on a recipe's built dataset, or align or distil it, as `[model]` says. Resume an interrupted run.

    The arguments are those of `build`.

    >>> import vernaclip
    >>> report = vernaclip.train("scenes.toml", "catalog", settings={"train.steps": 3})
    >>> model = vernaclip.open_model(report.folder)

    Raises:
        InputError: the dataset was not built, or was not guarded against a test set.
        DamagedError: the dataset is damaged.
    """
    return _do(jobs.train, recipe, root, settings)


def align(recipe: Place, root: Place, *, settings: Settings | None = None) -> TrainReport:
    """Train only the projections over the frozen, pretrained towers that the recipe names. Features are kept.

    The arguments are those of `build`.

    >>> import vernaclip
    >>> towers = {"image_tower": "test_efficientnet", "image_weights": "tower.safetensors", "text_encoder": "bert"}
    >>> report = vernaclip.align("scenes.toml", "catalog", settings={"train": towers})
    >>> model = vernaclip.open_model(report.folder)

    Raises:
        InputError: the dataset was not built, or the towers' weights are missing or do not match.
        SettingsError: a tower would start from random weights.
    """
    return _do(jobs.align, recipe, root, settings)


def distil(recipe: Place, root: Place, *, settings: Settings | None = None) -> DistilReport | TrainReport:
    """Train a text tower on parallel sentences, and join it with its teacher's image tower. Resume an interrupted run.

    The arguments are those of `build`.

    >>> import vernaclip
    >>> lesson = {"teacher": "model", "pairs": ["captions.tsv"], "student": "tiny", "epochs": 1, "num_held_out": 5}
    >>> report = vernaclip.distil("scenes.toml", "root", settings={"target_language": "it", "distil": lesson})
    >>> report.result.epochs
    1

    Raises:
        InputError: the sentences cannot be used, or files of teacher or student are missing.
    """
    return _do(jobs.distil, recipe, root, settings)


def score(recipe: Place, root: Place, *, settings: Settings | None = None) -> EvaluateReport:
    """Score the newest model of a recipe's dataset on held-out images.

    The arguments are those of `build`; settings as {"evaluate.split": "val"} choose the images.

    >>> import vernaclip
    >>> scores = vernaclip.score("scenes.toml", "catalog").scores
    >>> found = scores.get("text_to_image_MRR@5")
    >>> found.low <= found.value <= found.high
    True

    Raises:
        InputError: no model was trained, or no images were held out.
    """
    return _do(jobs.evaluate, recipe, root, settings)


def _do(job: Callable[..., R], recipe: Place, root: Place, settings: Settings | None, **options: Any) -> R:
    """Do a job of the table in threads of this process."""
    place = Path(root)
    open_root(place, writes=True)
    with running_job(place):
        loaded = load_recipe(fspath(recipe), root=place, overrides=settings or {})
        report: R = jobs.call(job.__name__, loaded, place, **options)
    return report


def translate(
    captions: Sequence[str],
    source: str,
    target: str,
    *,
    settings: Settings | None = None,
    language_packs: Sequence[Place] = (),
    memory: Place | None = None,
) -> list[Translation]:
    """Translate captions, and return their translations in the same order, each with its score and its faults.

    Each call opens the engine, which takes about a second. Pass many captions at once.

    >>> import vernaclip
    >>> engine = {"package": "scenes-en_it.argosmodel"}
    >>> [found.text for found in vernaclip.translate(["two red stars"], "en", "it", settings=engine)]
    ['due stelle rosse']

    Args:
        captions: texts to translate.
        source: language code of the captions, such as "en".
        target: language code of the translations.
        settings: settings as in a recipe's `[translate]`, such as {"engine": "ctranslate2", "model": "opus-mt-en-it"}.
            By default the newest installed Argos package translates.
        language_packs: TOML files of languages that vernaclip does not include.
        memory: folder of a translation memory. Captions found in it are not translated again, which saves money with
            paid engines.

    Raises:
        SettingsError: there is no such language, a setting is wrong, or one text is given instead of a list.
        InputError: there is no such package.
        TransientError: the engine is temporarily unavailable.
    """
    require_list(captions, "text")
    require_list(language_packs, "language pack")
    with tempfile.TemporaryDirectory(prefix="vernaclip-") as cache:
        engine = open_one_way(
            setting_values(settings or {}),
            source,
            target,
            language_packs=[fspath(path) for path in language_packs],
            memory=Path(memory) if memory is not None else None,
            cache_dir=Path(cache),
        )
        return list(translate_stream(engine, captions))


def search(
    query: Place,
    root: Place,
    *,
    dataset: str | None = None,
    images: Place | None = None,
    model: Place | None = None,
    num_hits: int = 12,
    translation: Settings | None = None,
) -> SearchResult:
    """Return the images of a dataset or a folder that are most similar to a text or an image.

    The result has the query that was searched: the translated text, if it was translated.

    >>> import vernaclip
    >>> engine = {"from": "en", "to": "it", "package": "scenes-en_it.argosmodel"}
    >>> found = vernaclip.search("two red stars", "catalog", num_hits=5, translation=engine)
    >>> found.query, len(found.hits)
    ('due stelle rosse', 5)

    Args:
        query: text in the language of the model, or of `translation`; or an image file, as a `Path`. Images with the
            same bytes are left out.
        root: folder of the catalog.
        dataset: dataset whose newest model is used. By default the only one that has a model.
        images: folder of image files to search instead of the dataset.
        model: model folder to use instead of the dataset's model; only with `images`.
        num_hits: maximum number of images.
        translation: language of the query ("from"), that of the model ("to", by default that of its training data) and
            settings as in a recipe's `[translate]`. The query is translated before the search.

    Raises:
        SettingsError: the query is empty, or a setting is wrong.
        InputError: there are no images, no model or no such translation package; or the image cannot be read.
    """
    settings = setting_values(translation or {})
    from_code, to_code = settings.pop("from", None), settings.pop("to", None)
    if translation is not None and from_code is None:
        raise SettingsError('the translation needs "from": the language of the query')
    folder, own_model = (None if place is None else Path(place) for place in (images, model))
    place, query = Path(root), query if isinstance(query, str) else Path(query)
    open_root(place, writes=True)
    with running_job(place):
        if from_code is not None:
            query = translated_query(
                query, (from_code, to_code), chosen_model(place, dataset, own_model), place, settings
            )
        return search_images(query, place, num_hits=num_hits, dataset=dataset, folder=folder, model=own_model)

"""The commands run, build, train and evaluate. Each prints its results and the commands to try next."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from json import dumps
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from data_catalog.base.errors import DamagedError, SettingsError
from data_catalog.base.plain_text import cell_text, command, counted, deciding_settings_text
from flows.cli.output import is_quiet, require_own_file, say, say_json, say_table
from flows.options import DEFAULT_ROOT, Json, Number, OptionalNumber, Overrides, RecipeName, Root, whole_numbers

if TYPE_CHECKING:
    from flows.dry_run import DryRun
    from flows.jobs import AlignReport, BuildReport, DistilReport, EvaluateReport, TrainReport
    from flows.recipe.recipe import Recipe
    from training.scores.rows import Board

FLOW_NAMES = {
    "build": "build-dataset",
    "train": "train-clip",
    "align": "align-clip",
    "distil": "distil-clip",
    "evaluate": "evaluate-clip",
}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options of a job that builds a dataset, beside recipe and root."""

    overrides: Overrides = ()
    """Override a setting of the recipe. Repeatable."""
    executor: Literal["prefect", "local", "dask"] = "prefect"
    """Run the steps through Prefect, in threads without Prefect (local), or on a Dask cluster (docs/operations.md)."""
    dask_address: Annotated[str | None, Parameter(metavar="ADDRESS")] = None
    """Scheduler for --executor dask, such as tcp://10.0.0.5:8786 (default: the recipe's, else local processes)."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options of a job that trains or evaluates, beside recipe and root."""

    overrides: Overrides = ()
    """Override a setting of the recipe. Repeatable."""
    executor: Literal["prefect", "local"] = "prefect"
    """Run the job through Prefect, or without it (local)."""
    json: Json = False


@Parameter(name="*", group=Group("Instead of building", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class DryRunOptions:
    """Options of a dry run; None means that an option was not given."""

    dry_run: bool = False
    """Print which captions of a sample of each source the checks would drop, with examples."""
    rows: OptionalNumber = None
    """Rows to sample from each source, 0 for all (default: 1000)."""
    examples: OptionalNumber = None
    """Captions to show for each rule and source (default: 3)."""
    seed: OptionalNumber = None
    """Seed of the sample (default: 1)."""
    translate: bool = False
    """Also translate the sample, and check the translations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job with its recipe, root and options, as given on the command line."""

    recipe: str
    root: Path
    overrides: tuple[str, ...] = ()
    executor: str = "prefect"
    dask_address: str | None = None
    retry_failed: bool = False


WEAK_SHARE, GOOD_SHARE = 0.5, 0.8  # of captions whose image is among the first ten
FEW_IMAGES = 50  # in a gallery, in which ten are too many to tell
# How much R@1 rises with twice the photographs, from fewer than so many, and from more (docs/training.md, align).
GAINS_OF_TWICE, MANY_IMAGES = (0.4, 0.15), 2_000
LEAST_GAIN = 0.02  # that is worth saying

_BUILD, _MODEL, _DRY_RUN = BuildOptions(), ModelOptions(), DryRunOptions()
RetryFailed = Annotated[
    bool,
    Parameter(help="Fetch again the images that failed for a temporary reason in an earlier build of the dataset."),
]


def run(
    recipe: RecipeName,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    options: BuildOptions = _BUILD,
    retry_failed: RetryFailed = False,
) -> None:
    """Build the dataset of a recipe, train a model on it, and evaluate the model."""
    from flows.jobs import require_ready, require_scorable
    from flows.recipe.recipe import load_recipe

    job = _job(recipe, root, options, retry_failed=retry_failed)
    loaded = load_recipe(recipe, root=root, overrides=job.overrides)
    require_ready(loaded, root)
    _print_build(with_executor("build", job), job)
    require_scorable(loaded, root)
    _print_training(with_executor("train", job))
    report: EvaluateReport = with_executor("evaluate", job)
    _print_scores(report)
    say(f"\n{_verdict(report.scores, loaded)}")
    _print_next(job, ("report", "search", "sql", "duckdb", "verify", "up"))


def build(
    recipe: RecipeName,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    options: BuildOptions = _BUILD,
    retry_failed: RetryFailed = False,
    json: Json = False,
    dry: DryRunOptions = _DRY_RUN,
) -> None:
    """Build the dataset of a recipe. After an interruption, run the same command again to resume."""
    job = _job(recipe, root, options, retry_failed=retry_failed)
    names = ("rows", "examples", "seed", "translate")
    given = [f"--{name}" for name in names if getattr(dry, name) not in (None, False)]
    if given and not dry.dry_run:
        raise SettingsError(f"{', '.join(given)} can be used only with --dry-run")
    if dry.dry_run:
        _dry_run(job, dry, json=json)
        return
    report: BuildReport = with_executor("build", job)
    if not json:
        _print_build(report, job)
        _print_next(job, ("report", "train", "sql", "duckdb"))
        return
    snapshot = report.snapshot
    say_json(
        {
            "dataset": snapshot.dataset,
            "snapshot": snapshot.snapshot,
            "folder": snapshot.folder,
            "up_to_date": report.up_to_date,
            "seconds": report.seconds,
            "pairs": snapshot.num_pairs,
            "funnel": report.funnel,
            "drop_reasons": snapshot.manifest["drop_reasons"],
            "warnings": report.warnings,
            "downloads": {"images": report.downloads.counts, "findings": report.downloads.findings},
            "report": _report_of(job.root, snapshot.dataset),
        }
    )


def train(recipe: RecipeName, /, *, root: Root = DEFAULT_ROOT, options: ModelOptions = _MODEL) -> None:
    """Make the recipe's model on its dataset, which must have been built: train, align or distil, as [model] says."""
    from training.runs.processes import process_rank

    job = _job(recipe, root, options)
    report: TrainReport | DistilReport = with_executor("train", job)
    if process_rank():
        return
    if options.json:
        dataset = report.snapshot.dataset if report.snapshot else None
        say_json({"folder": report.folder, "dataset": dataset} | _json_row(report))
        return
    _print_training(report)
    _print_next(job, ("evaluate",))


def align(
    recipe: RecipeName,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    options: ModelOptions = _MODEL,
    curve: Annotated[tuple[int, ...], Parameter(metavar="N,N,...", converter=whole_numbers)] = (),
) -> None:
    """Train only the projections over the frozen, pretrained towers that the recipe's [train] names. Takes minutes.

    Features of all images and captions are computed once and kept. The result is an ordinary model.

    Args:
        curve: Also train on this many images each, such as 250,500,1000, and print R@1 against the number of images.
    """
    job = _job(recipe, root, options)
    report: AlignReport = with_executor("align", job, curve=list(curve))
    if options.json:
        named = {"folder": report.folder, "dataset": report.snapshot.dataset}
        say_json(named | _json_row(report) | {"curve": report.curve_rows() or None})
        return
    _print_training(report)
    if report.curve is not None:
        from training.align.curve import CURVE_PLOT_FILE

        split = report.curve.sets[0]
        say(f"\nScores on the {split.name} split by number of training images\n")
        say_table(report.curve_rows())
        for note in split.notes:
            say(f"\nsplit {split.name}: {note}")
        say(f"\nPlot: {report.folder / CURVE_PLOT_FILE}")
    _print_next(job, ("evaluate",))


def distil(recipe: RecipeName, /, *, root: Root = DEFAULT_ROOT, options: ModelOptions = _MODEL) -> None:
    """Train a text tower on parallel sentences, without images, and join it with the image tower of a teacher.

    The recipe's [distil] names teacher and sentences. The dataset need not be built, unless the teacher is a text
    encoder, whose student is then aligned on it. After an interruption, run the same command again to resume.
    """
    job = _job(recipe, root, options)
    report: DistilReport | AlignReport = with_executor("distil", job)
    if options.json:
        pairs = getattr(report, "pairs", None)  # a student of a text encoder was then aligned
        more = {} if pairs is None else {"origins": dict(pairs.origins), "left_out": dict(pairs.left_out)}
        say_json({"folder": report.folder} | _json_row(report) | more)
        return
    _print_training(report)
    if report.snapshot is not None:
        _print_next(job, ("evaluate",))


def evaluate(recipe: RecipeName, /, *, root: Root = DEFAULT_ROOT, options: ModelOptions = _MODEL) -> None:
    """Score the trained model on the dataset's held-out images."""
    job = _job(recipe, root, options)
    report: EvaluateReport = with_executor("evaluate", job)
    if options.json:
        say_json({"folder": report.folder, "path": report.path, **report.scores.to_json()})
        return
    _print_scores(report)
    _print_next(job, ("search",))


def image_text_scores(
    recipe: RecipeName,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    overrides: Overrides = (),
    folds: Number = 5,
    out: Annotated[Path | None, Parameter(metavar="FILE.parquet")] = None,
) -> None:
    """Judge how well the captions of a dataset fit their images, by models of its own that did not see them.

    The dataset is divided into folds. For each, the recipe's heads are aligned on all other folds (see `align`), and
    score its captions. Set image_text.scores to the file, and build again.

    Args:
        overrides: Override a setting of the recipe. Repeatable.
        folds: Number of folds.
        out: File to write (default: NAME-image-text-scores.parquet in the current folder).
    """
    from flows.jobs import score_folds
    from flows.recipe.recipe import load_recipe
    from flows.signals import exit_on_signals

    loaded = load_recipe(recipe, root=root, overrides=overrides)
    path = out or Path(f"{loaded.name}-image-text-scores.parquet")
    require_own_file(path, "--out")
    with exit_on_signals():
        count = score_folds(loaded, root, num_folds=folds, out=path)
    say(f"\nwrote {path}: {counted(count, 'caption')}, each judged by heads trained on the other folds")
    if not is_quiet():
        setting = f'image_text.scores="{path.absolute()}"'
        say(f"\nTry next:\n  {command('build', recipe, '--root', root, '--set', setting)}")


def _job(recipe: str, root: Path, options: BuildOptions | ModelOptions, *, retry_failed: bool = False) -> Job:
    values = {name: value for name, value in vars(options).items() if name != "json"}
    return Job(recipe=recipe, root=root, retry_failed=retry_failed, **values)


def with_executor(name: str, job: Job, **options: Any) -> Any:
    """Run a job of `flows.jobs`, such as "build", with the chosen executor, and return its report.

    Only builds use a cluster. The other jobs of a run with `--executor dask` go through Prefect.

    Raises:
        SettingsError: several processes are to do more than train, or an address is given for another executor.
        InputError: Dask is not installed.
    """
    from flows.orchestration.doctor import require_dask
    from training.runs.processes import process_count

    if job.executor != "dask" and job.dask_address is not None:
        raise SettingsError("--dask-address can be used only with --executor dask")
    if job.executor == "dask":
        require_dask()
    if process_count() > 1 and (name != "train" or job.executor != "local"):
        raise SettingsError(
            "several processes can only train, and without Prefect: use `vernaclip train --executor local`"
        )
    more = {"retry_failed": job.retry_failed} if name == "build" else options
    if job.executor == "local":
        from flows import jobs
        from flows.build.execution import LocalExecutor
        from flows.signals import exit_on_signals

        with exit_on_signals(), LocalExecutor() as executor:
            return getattr(jobs, name)(job.recipe, root=job.root, overrides=job.overrides, executor=executor, **more)
    from data_catalog.catalog.manifest import require_snapshot
    from flows.orchestration.temporary_server import run_flow
    from flows.recipe.recipe import load_recipe

    # Fail before the slow start of Prefect, not after it.
    loaded = load_recipe(job.recipe, root=job.root, overrides=job.overrides)
    if name not in ("build", "distil"):
        require_snapshot(job.root, loaded.name, recipe=loaded.reference)
    overrides = list(job.overrides)
    if job.dask_address is not None:
        overrides.append(f'build.dask_address="{job.dask_address}"')
    if job.executor == "dask" and name == "build":
        more["dask"] = True
    return run_flow(FLOW_NAMES[name], job.recipe, root=job.root, overrides=overrides, project=Path.cwd(), **more)


def _dry_run(job: Job, dry: DryRunOptions, *, json: bool) -> None:
    """Check a sample of each source, and print what each rule drops, with examples.

    Raises:
        SettingsError: an option cannot be combined with a dry run, or a number is negative.
    """
    from flows.dry_run import dry_run
    from flows.recipe.recipe import load_recipe

    if job.retry_failed:
        raise SettingsError("--retry-failed cannot be used with --dry-run, which fetches no images")
    for name in ("rows", "examples"):
        if (getattr(dry, name) or 0) < 0:
            raise SettingsError(f"--{name} must not be negative, got {getattr(dry, name)}")
    recipe = load_recipe(job.recipe, root=job.root, overrides=job.overrides)
    found = dry_run(
        recipe,
        root=job.root,
        num_rows=1000 if dry.rows is None else dry.rows,
        num_examples=3 if dry.examples is None else dry.examples,
        seed=1 if dry.seed is None else dry.seed,
        translate=dry.translate,
    )
    if json:
        asked, known = found.num_images
        dropped = [
            {"source": rule.source, "step": rule.step, "rule": rule.rule, "rows": rule.num_rows}
            | {"decided_by": rule.decided_by}
            | {"examples": [{"caption": caption, "detail": detail} for caption, detail in rule.examples]}
            for rule in found.dropped
        ]
        rows = {"rows": found.num_rows, "unjudged": found.num_unjudged, "beyond_limit": found.num_beyond}
        images = {"asked": asked, "known": known}
        say_json(
            {
                "dataset": recipe.name,
                **rows,
                "dropped": dropped,
                "images": images,
                "lacking": found.lacking,
                "not_judged": found.not_judged,
            }
        )
    else:
        _print_dry_run(found, recipe.name)


def _print_dry_run(found: "DryRun", name: str) -> None:
    """Print the result of a dry run, with examples."""
    say(f"\nRows that the rules of {name} would drop\n")
    say_table(found.rows())
    for source, num_rows in found.num_rows.items():
        unjudged = found.num_unjudged.get(source, 0)
        remarks = f"; {unjudged:,} need translation and passed all checks before it" if unjudged else ""
        beyond = found.num_beyond.get(source, 0)
        remarks += f"; {beyond:,} are beyond its limit" if beyond else ""
        say(f"\n{source}: {counted(num_rows, 'row')} checked{remarks}")
        for rule in (rule for rule in found.dropped if rule.source == source):
            say(f"  {rule.rule} ({'; '.join(filter(None, [rule.step, deciding_settings_text(rule.decided_by)]))})")
            for caption, detail in rule.examples:
                say(f"    {cell_text(caption)}" + (f"  [{cell_text(detail)}]" if detail else ""))
    asked, known = found.num_images
    say(f"\nImages of the remaining captions: {asked:,} would be fetched, {known:,} are known already.")
    if any(found.num_unjudged.values()):
        say("\nAdd --translate to check translations as well.")
    if found.not_judged:
        say(f"\nA dry run fetches no images, so it does not judge captions by {' and '.join(found.not_judged)}.")
    for lacking in found.lacking:
        say(f"\nA build would refuse the recipe: {lacking}")


def _print_build(report: "BuildReport", job: Job) -> None:
    """Print the funnel, the drop reasons and the outcomes of images of a build."""
    from textwrap import fill

    dataset, downloads = report.snapshot.dataset, report.downloads
    say(f"\nFunnel of {dataset}: captions that each step read, kept and dropped\n")
    say_table(report.funnel)
    say("\nDrop reasons of captions\n")
    say_table(report.snapshot.manifest["drop_reasons"])
    if downloads.rows():
        say("\nOutcomes of the images that were fetched from the web\n")
        say_table(downloads.rows())
    for finding in downloads.findings:
        say("\n" + fill(finding, 110))
    name = f"{dataset} {report.snapshot.snapshot}"
    if report.up_to_date:
        say(f"\n{name} is up to date: nothing to do ({report.seconds:.1f} s).")
    else:
        say(f"\n{name}: {report.snapshot.num_pairs:,} images with captions in {report.seconds:,.0f} s.")
    if news := _unlearned(report, job):
        say("\n" + fill(news, 110))
    for warning in report.warnings:
        say("\n" + fill(f"warning: {warning}", 110))


def _unlearned(report: "BuildReport", job: Job) -> str:
    """Return how many images are new since the newest model was trained, and what to expect of another; "" for none."""
    from training.data.pairs import seen_in_training
    from training.towers.trained_models import newest_model

    snapshot = report.snapshot
    try:
        trained = newest_model(job.root, snapshot.dataset)
    except DamagedError:  # of a snapshot that a take-down removed; search says so
        return ""
    if trained is None or trained.snapshot.snapshot == snapshot.snapshot:
        return ""
    num_new = snapshot.num_pairs - len(seen_in_training(snapshot.files("pairs"), trained.snapshot.files("pairs")))
    if not num_new:
        return ""
    earlier = trained.snapshot.num_pairs
    growth = num_new / earlier
    gain = GAINS_OF_TWICE[earlier >= MANY_IMAGES] * log2(1 + growth)
    news = (
        f"{num_new:,} of {snapshot.num_pairs:,} images are new since the model was trained: `vernaclip search` finds "
        "them too. Training again would also learn from them"
    )
    if gain < LEAST_GAIN:
        return f"{news}, but is not worth while yet."
    return (
        f"{news}. By what photographs added to heads in our benchmark, about {gain:.0%} more captions would then find "
        "their image first."
    )


def _verdict(scores: "Board", recipe: "Recipe") -> str:
    """Return what the scores mean for a search, and, unless they are good, what would help most."""
    captions = "distinct" if scores.where(captions="distinct").rows else "all"
    first, ten = (scores.get(f"text_to_image_R@{k}", captions) for k in (1, 10))
    grade = "good" if ten.value >= GOOD_SHARE else "usable" if ten.value >= WEAK_SHARE else "weak"
    if first.gallery < FEW_IMAGES:
        grade = "hard to tell, from so few images"
    text = (
        f"Verdict: {grade}. Of 100 captions, {100 * first.value:.0f} find their image first among "
        f"{first.gallery:,} ({100 * first.low:.0f}-{100 * first.high:.0f}; by chance {100 * first.chance:.1f}), "
        f"and {100 * ten.value:.0f} among the first ten."
    )
    if grade == "good":
        return text
    from training.towers.plan import TowerPlan

    trains, plan = recipe.model.by == "train", TowerPlan.of(recipe.train, loss=recipe.train.loss)
    if trains and not plan.has_image_weights:
        helps = "a pretrained image tower: set train.image_tower=efficientnet-lite0 and train.freeze_image=true"
    elif trains and not plan.has_encoder:
        code = recipe.target_language
        helps = f"a text encoder that reads {code} (vernaclip towers --language {code}), with model.by=align"
    elif recipe.model.by == "distil":
        helps = "more parallel sentences, or more photographs with captions"
    else:
        helps = "more photographs with captions: `vernaclip align RECIPE --curve` measures how much"
    return f"{text}\nWhat would help most: {helps}."


def _json_row(report: "TrainReport | DistilReport") -> dict[str, object]:
    """Return a report's row with keys that have no blanks."""
    return {name.replace(" ", "_"): value for name, value in report.row().items()}


def _print_training(report: "TrainReport | DistilReport") -> None:
    result, epochs = report.result, f"{report.result.epochs} epochs, best epoch {report.result.best_epoch}"
    say(f"\nModel: {report.folder}")
    if (pairs := getattr(report, "pairs", None)) is not None:
        held_out = f"MRR@10 of {len(pairs.held_out):,} held-out sentences {result.best_val_mrr:.3f}"
        say(f"{result.num_samples:,} pairs, {epochs}, {held_out}")
        if pairs.left_out:
            say_table([{"left out because": reason, "pairs": count} for reason, count in pairs.left_out.items()])
        return
    loss = "" if result.best_val_loss is None else f", validation loss {result.best_val_loss:.3f}"
    loss += "" if result.best_val_mrr is None else f", validation MRR@10 {result.best_val_mrr:.3f}"
    say(f"{result.num_samples:,} images, {epochs}{loss}")


def _print_scores(report: "EvaluateReport") -> None:
    from training.scores.rows import CAPTION_MODES

    (facts,) = report.scores.sets
    say(f"\nScoreboard: retrieval among the images of the {facts.name} split\n")
    say_table(report.scores.where(captions="distinct").table())
    say()
    for note in (*facts.notes, f"captions distinct: {CAPTION_MODES['distinct']}"):
        say(note)
    say(f"\nAll scores, with other ways to count captions: {report.path}")


def _print_next(job: Job, topics: tuple[str, ...]) -> None:
    """Print the commands to try next."""
    if is_quiet():
        return
    say("\nTry next:")
    for topic in topics:
        say(f"  {NEXT[topic](job)}")


def _report_of(root: Path, dataset: str) -> Path:
    from data_catalog.report.page import report_path

    return report_path(root, dataset)


def _dataset(job: Job) -> str:
    from flows.recipe.recipe import load_recipe

    return load_recipe(job.recipe, root=job.root, overrides=job.overrides).name


def _with_recipe(name: str, job: Job) -> str:
    """Return a command on the recipe with the job's settings, which may name the dataset or the split to score."""
    settings = [word for setting in job.overrides for word in ("--set", setting)]
    return command(name, job.recipe, "--root", job.root, *settings)


def _search(job: Job) -> str:
    """Return a search command with the shortest caption of a held-out image as its query."""
    import pyarrow.parquet as pq

    from data_catalog.catalog.manifest import require_snapshot

    dataset = _dataset(job)
    snapshot = require_snapshot(job.root, dataset)
    files = [*snapshot.pair_files("test"), *snapshot.pair_files("val")]
    captions = pq.read_table(files[0], columns=["captions"]).column("captions").to_pylist() if files else []
    shortest = min((own[0] for own in captions), key=lambda text: (len(text), text), default="...")
    return command("search", shortest, "--root", job.root, "--dataset", dataset)


def _deployed(job: Job) -> str:
    """Return the commands that build the same dataset through a deployment."""
    from flows.recipe.recipe import override_values

    parameters: dict[str, object] = {"recipe": job.recipe, "root": job.root}
    if job.overrides:
        parameters["settings"] = dumps(override_values(job.overrides), ensure_ascii=False)
    words = [word for name, value in parameters.items() for word in ("--param", f"{name}={value}")]
    return f"vernaclip up, then: {shlex.join(['prefect', 'deployment', 'run', FLOW_NAMES['build'], *words])}"


NEXT: dict[str, Callable[[Job], str]] = {
    "report": lambda job: f"open {_report_of(job.root, _dataset(job))} in a browser: the report of the build",
    "train": lambda job: _with_recipe("train", job),
    "evaluate": lambda job: _with_recipe("evaluate", job),
    "search": _search,
    "sql": lambda job: command("sql", "SELECT * FROM drop_reasons", "--root", job.root),
    "duckdb": lambda job: (
        f"{shlex.join(['duckdb', '-readonly', str(job.root / 'catalog.duckdb')])}  (in any DuckDB shell: FROM rejects)"
    ),
    "verify": lambda job: command("verify", "--root", job.root),
    "up": _deployed,
}

"""The commands of the jobs, made from their table. Each prints its report and the commands to try next."""

import inspect
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from json import dumps
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from data_catalog.base.errors import DamagedError, SettingsError
from data_catalog.base.plain_text import cell_text, command, counted, deciding_settings_text
from flows.cli.output import is_quiet, say, say_json, say_table
from flows.jobs import JOBS, call
from flows.options import DEFAULT_ROOT, Json, Number, Overrides, RecipeName, Root, WholeNumber
from training.runs.processes import process_count, process_rank

if TYPE_CHECKING:
    from flows.datasets import BuildReport
    from flows.dry_run import DryRun
    from flows.models import DistilReport, EvaluateReport, TrainReport
    from flows.recipe.recipe import Recipe
    from training.scores.rows import Board


Executor = Annotated[
    Literal["prefect", "local", "dask"],
    Parameter(
        help="Run the steps through Prefect, in threads without Prefect (local), or on a Dask cluster "
        "(docs/operations.md)."
    ),
]
OneProcess = Annotated[
    Literal["prefect", "local"], Parameter(help="Run the job through Prefect, or without it (local).")
]
DaskAddress = Annotated[
    str | None,
    Parameter(
        metavar="ADDRESS",
        help="Scheduler for --executor dask, such as tcp://10.0.0.5:8786 (default: the recipe's, or local processes).",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A job as the command line asks for it."""

    recipe: RecipeName
    root: Root = DEFAULT_ROOT
    overrides: Overrides = ()
    executor: Executor = "prefect"
    dask_address: DaskAddress = None

    @cached_property
    def loaded(self) -> "Recipe":
        """Return the recipe with the overrides."""
        from flows.recipe.recipe import load_recipe

        return load_recipe(self.recipe, root=self.root, overrides=self.overrides)


@Parameter(name="*", group=Group("Instead of building", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class DryRunOptions:
    """Options of a dry run."""

    dry_run: bool = False
    """Print which captions of a sample of each source the checks would drop, with examples."""
    rows: WholeNumber | None = None
    """Rows to sample from each source, 0 for all (default: 1000)."""
    examples: WholeNumber | None = None
    """Captions to show for each rule and source (default: 3)."""
    seed: Number | None = None
    """Seed of the sample (default: 1)."""
    translate: bool = False
    """Also translate the sample, and check the translations."""


WEAK_SHARE, GOOD_SHARE = 0.5, 0.8  # of captions whose image is among the first ten
FEW_IMAGES = 50  # in a gallery, in which ten are too many to tell
# How much R@1 rises with twice the photographs, from fewer than so many, and from more (docs/training.md, align).
GAINS_OF_TWICE, MANY_IMAGES = (0.4, 0.15), 2_000
LEAST_GAIN = 0.02  # that is worth saying

_NO_DRY_RUN = DryRunOptions()


def commands() -> Iterator[Callable[..., None]]:
    """Yield the commands of all jobs."""
    special: dict[str, Callable[..., None]] = {"run": _run, "build": _build}
    for name in JOBS:
        yield command_of(name, special.get(name, partial(_report, name)))


def command_of(name: str, do: Callable[..., None]) -> Callable[..., None]:
    """Return the command of a job, with the job's docstring as its help, and the job's options beside those of all.

    Args:
        name: name of the job in `JOBS`.
        do: is called with the request and the job's options; its own keywords are options of the command, too.
    """
    job, fields = JOBS[name], dict(inspect.signature(Request).parameters)
    recipe = fields.pop("recipe").replace(kind=inspect.Parameter.POSITIONAL_ONLY)
    fields = {"root": fields.pop("root"), **fields}
    if "dask" not in job.executors:
        del fields["dask_address"]
        fields["executor"] = fields["executor"].replace(annotation=OneProcess)
    more = [option for option in inspect.signature(do).parameters.values() if option.kind is option.KEYWORD_ONLY]

    def asked(recipe: str, /, **given: Any) -> None:
        do(Request(recipe=recipe, **{field: given.pop(field) for field in fields if field in given}), **given)

    every = [recipe, *fields.values(), *job.options.values(), *more]
    asked.__name__, asked.__doc__ = name, inspect.getdoc(job.run)
    asked.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    asked.__annotations__ = {each.name: each.annotation for each in every}
    return asked


def _report(name: str, request: Request, *, json: Json = False, **options: Any) -> None:
    """Do a job and print its report."""
    report, makes = with_executor(name, request, **options), JOBS[name].makes
    if process_rank():  # of several processes, only the first one prints
        return
    if json:
        say_json(AS_JSON[makes](report, request))
        return
    _say_next(request, SAY[makes](report, request))


def _build(request: Request, *, json: Json = False, dry: DryRunOptions = _NO_DRY_RUN, **options: Any) -> None:
    """Build a dataset, or do a dry run."""
    given = [f"--{name}" for name, value in vars(dry).items() if value != getattr(_NO_DRY_RUN, name)]
    if given and not dry.dry_run:
        raise SettingsError(f"{', '.join(given)} can be used only with --dry-run")
    if not dry.dry_run:
        _report("build", request, json=json, **options)
        return
    if asked := [f"--{name.replace('_', '-')}" for name, value in options.items() if value]:
        raise SettingsError(f"{', '.join(asked)} cannot be used with --dry-run, which builds nothing")
    _dry_run(request, dry, json=json)


def _run(request: Request, **options: Any) -> None:
    """Do the parts of the job one after the other, with an executor for each, and say what the scores mean."""
    from flows.models import require_scorable

    report: Any = None
    job = JOBS["run"]
    job.require(request.loaded, request.root)
    for part in job.parts:
        report = with_executor(part, request, **{name: options[name] for name in JOBS[part].options if name in options})
        SAY[JOBS[part].makes](report, request)
        if JOBS[part].makes == "dataset":
            require_scorable(request.loaded, request.root)
    say(f"\n{_verdict(report.scores, request.loaded)}")
    _say_next(request, ("report", "search", "sql", "duckdb", "verify", "up"))


def with_executor(name: str, request: Request, **options: Any) -> Any:
    """Do a job with the chosen executor, and return its report.

    Only builds use a cluster. The other jobs of a run with `--executor dask` go through Prefect.
    """
    from flows.orchestration.doctor import require_dask

    job = JOBS[name]
    if request.dask_address is not None:
        if request.executor != "dask":
            raise SettingsError("--dask-address can be used only with --executor dask")
        address = f'build.dask_address="{request.dask_address}"'
        request = replace(request, overrides=(*request.overrides, address), dask_address=None)
    if request.executor == "dask":
        require_dask()
    if process_count() > 1 and (name != "train" or request.executor != "local"):
        raise SettingsError(
            "several processes can only train, and without Prefect: use `vernaclip train --executor local`"
        )
    if request.executor == "local":
        from flows.signals import exit_on_signals

        with exit_on_signals():
            return call(name, request.loaded, request.root, **options)
    from flows.orchestration.server import run_flow

    job.require(request.loaded, request.root)  # before the slow start of Prefect, not after it
    if request.executor == "dask" and job.makes == "dataset":
        options["dask"] = True
    return run_flow(
        name,
        request.recipe,
        root=request.root,
        overrides=request.overrides,
        loaded=request.loaded,
        project=Path.cwd(),
        **options,
    )


def _dry_run(request: Request, dry: DryRunOptions, *, json: bool) -> None:
    """Check a sample of each source, and print what each rule drops, with examples."""
    from flows.dry_run import dry_run

    counts = {"num_rows": dry.rows, "num_examples": dry.examples, "seed": dry.seed}
    given = {name: count for name, count in counts.items() if count is not None}
    found = dry_run(request.loaded, root=request.root, translate=dry.translate, **given)
    if json:
        say_json(_dry_run_values(found, request.loaded.name))
    else:
        _say_dry_run(found, request.loaded.name)


def _dry_run_values(found: "DryRun", dataset: str) -> dict[str, Any]:
    """Return the result of a dry run as JSON values."""
    asked, known = found.num_images
    return {
        "dataset": dataset,
        "rows": found.num_rows,
        "unjudged": found.num_unjudged,
        "beyond_limit": found.num_beyond,
        "dropped": [
            {
                "source": rule.source,
                "step": rule.step,
                "rule": rule.rule,
                "rows": rule.num_rows,
                "decided_by": rule.decided_by,
                "examples": [{"caption": caption, "detail": detail} for caption, detail in rule.examples],
            }
            for rule in found.dropped
        ],
        "images": {"asked": asked, "known": known},
        "lacking": found.lacking,
        "not_judged": found.not_judged,
    }


def _say_dry_run(found: "DryRun", name: str) -> None:
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


def _say_build(report: "BuildReport", request: Request) -> tuple[str, ...]:
    """Print the funnel, the drop reasons and the outcomes of images; return the topics of what to try next."""
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
    for text in filter(None, (_unlearned(report, request.root), *(f"warning: {each}" for each in report.warnings))):
        say("\n" + fill(text, 110))
    return "report", "train", "sql", "duckdb"


def _build_values(report: "BuildReport", request: Request) -> dict[str, Any]:
    """Return the report of a build as JSON values."""
    from data_catalog.report.page import report_path

    snapshot = report.snapshot
    return {
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
        "report": report_path(request.root, snapshot.dataset),
    }


def _unlearned(report: "BuildReport", root: Path) -> str:
    """Return how many images are new since the newest model was trained, and what to expect of another; "" for none."""
    from training.data.pairs import seen_in_training
    from training.towers.trained_models import newest_model

    snapshot = report.snapshot
    try:
        trained = newest_model(root, snapshot.dataset)
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
        helps = "more photographs with captions"
    return f"{text}\nWhat would help most: {helps}."


def _say_model(report: "TrainReport | DistilReport", _: Request) -> tuple[str, ...]:
    """Print a model's folder and what it learned from; return the topics of what to try next."""
    result = report.result
    say(f"\nModel: {report.folder}")
    facts = [f"{result.epochs} epochs, best epoch {result.best_epoch}"]
    pairs = getattr(report, "pairs", None)
    if pairs is not None:
        facts.append(f"MRR@10 of {pairs.num_held_out:,} held-out sentences {result.best_val_mrr:.3f}")
    else:
        facts += [] if result.best_val_loss is None else [f"validation loss {result.best_val_loss:.3f}"]
        facts += [] if result.best_val_mrr is None else [f"validation MRR@10 {result.best_val_mrr:.3f}"]
    say(", ".join([f"{result.num_samples:,} {'images' if pairs is None else 'pairs'}", *facts]))
    if rows := list[Any](getattr(report, "language_rows", list)()):
        say_table(rows)
    if pairs is not None and pairs.left_out:
        say_table([{"left out because": reason, "pairs": count} for reason, count in pairs.left_out.items()])
    return ("evaluate",) if report.snapshot is not None else ()


def _model_values(report: "TrainReport | DistilReport", _: Request) -> dict[str, Any]:
    """Return the report of a model as JSON values."""
    found: dict[str, Any] = {"folder": report.folder, "dataset": report.snapshot and report.snapshot.dataset}
    found |= {name.replace(" ", "_"): value for name, value in report.row().items()}
    if (pairs := getattr(report, "pairs", None)) is not None:
        found |= {"origins": dict(pairs.origins), "left_out": dict(pairs.left_out)}
        rows = list[Any](getattr(report, "language_rows", list)())
        found |= {"languages": rows} if rows else {}
    return found


def _say_scores(report: "EvaluateReport", _: Request) -> tuple[str, ...]:
    """Print the scoreboard of a model; return the topics of what to try next."""
    from training.scores.rows import CAPTION_MODES

    (facts,) = report.scores.sets
    say(f"\nScoreboard: retrieval among the images of the {facts.name} split\n")
    say_table(report.scores.where(captions="distinct").table())
    say()
    for note in (*facts.notes, f"captions distinct: {CAPTION_MODES['distinct']}"):
        say(note)
    say(f"\nAll scores, with other ways to count captions: {report.path}")
    return ("search",)


def _score_values(report: "EvaluateReport", _: Request) -> dict[str, Any]:
    """Return the report of scores as JSON values."""
    return {"folder": report.folder, "path": report.path, **report.scores.to_json()}


# How reports are printed, and their JSON values, by what a job makes.
SAY: dict[str, Callable[[Any, Request], tuple[str, ...]]]
SAY = {"dataset": _say_build, "model": _say_model, "scores": _say_scores}
AS_JSON: dict[str, Callable[[Any, Request], dict[str, Any]]]
AS_JSON = {"dataset": _build_values, "model": _model_values, "scores": _score_values}


def _say_next(request: Request, topics: tuple[str, ...]) -> None:
    """Print the commands to try next."""
    if topics and not is_quiet():
        say("\nTry next:")
        for topic in topics:
            say(f"  {NEXT[topic](request)}")


def _report_page(request: Request) -> str:
    from data_catalog.report.page import report_path

    return f"open {report_path(request.root, request.loaded.name)} in a browser: the report of the build"


def _with_recipe(name: str, request: Request) -> str:
    """Return a command on the recipe with the request's settings, which may name the dataset or the split to score."""
    settings = [word for setting in request.overrides for word in ("--set", setting)]
    return command(name, request.recipe, "--root", request.root, *settings)


def _search(request: Request) -> str:
    """Return a search command with the shortest caption of a held-out image as its query."""
    import pyarrow.parquet as pq

    from data_catalog.catalog.manifest import require_snapshot

    dataset = request.loaded.name
    snapshot = require_snapshot(request.root, dataset)
    files = [*snapshot.pair_files("test"), *snapshot.pair_files("val")]
    captions = pq.read_table(files[0], columns=["captions"]).column("captions").to_pylist() if files else []
    shortest = min((own[0] for own in captions), key=lambda text: (len(text), text), default="...")
    return command("search", shortest, "--root", request.root, "--dataset", dataset)


def _deployed(request: Request) -> str:
    """Return the commands that build the same dataset through a deployment."""
    from flows.recipe.recipe import override_values

    parameters: dict[str, object] = {"recipe": request.recipe, "root": request.root}
    if request.overrides:
        parameters["settings"] = dumps(override_values(request.overrides), ensure_ascii=False)
    words = [word for name, value in parameters.items() for word in ("--param", f"{name}={value}")]
    return f"vernaclip up, then: {shlex.join(['prefect', 'deployment', 'run', JOBS['build'].flow, *words])}"


def _duckdb(request: Request) -> str:
    opened = shlex.join(["duckdb", "-readonly", str(request.root / "catalog.duckdb")])
    return f"{opened}  (in any DuckDB shell: FROM rejects)"


NEXT: dict[str, Callable[[Request], str]] = {
    "report": _report_page,
    "train": partial(_with_recipe, "train"),
    "evaluate": partial(_with_recipe, "evaluate"),
    "search": _search,
    "sql": lambda request: command("sql", "SELECT * FROM drop_reasons", "--root", request.root),
    "duckdb": _duckdb,
    "verify": lambda request: command("verify", "--root", request.root),
    "up": _deployed,
}

"""The table of jobs: commands, flows and their forms derive from it, and a recipe is loaded once."""

import inspect
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from data_catalog.base.errors import SettingsError
from flows.cli.app import app
from flows.cli.jobs import DryRunOptions, command_of, commands, with_executor
from flows.jobs import JOBS, Job, Run
from flows.orchestration import prefect_flows
from flows.recipe import recipe as recipes

ALWAYS = {"recipe", "root", "settings"}


def test_an_option_of_a_job_is_one_of_its_command_and_of_its_form() -> None:
    for name, job in JOBS.items():
        told = inspect.getdoc(job.run) or ""
        form = parameter_schema(prefect_flows.FLOWS[job.flow].fn).properties
        assert set(form) == ALWAYS | set(job.options) | ({"dask"} if job.makes == "dataset" else set())
        options = {option.name for option in app[name].assemble_argument_collection(parse_docstring=True)}
        for option in job.options:
            assert f"--{option.replace('_', '-')}" in options
            assert f"    {option}: {form[option]['description']}" in told


def test_a_dry_run_refuses_an_option_that_is_added_to_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(run: Run, *, dataset_note: str = "") -> None: ...

    monkeypatch.setitem(JOBS, "build", replace(JOBS["build"], run=build))
    (command,) = (each for each in commands() if each.__name__ == "build")
    with pytest.raises(SettingsError, match="--dataset-note cannot be used with --dry-run"):
        command("scenes", dataset_note="of May", dry=DryRunOptions(dry_run=True))


def test_a_worker_finds_a_flow_by_its_entry_point() -> None:
    for flow in prefect_flows.FLOWS.values():
        assert load_flow_from_entrypoint(f"{flow.fn.__module__}.{flow.fn.__name__}") is flow
    assert not hasattr(prefect_flows, "build_nothing")


def test_a_job_that_is_added_has_a_command_and_a_flow_and_its_recipe_is_loaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int]] = []
    loaded: list[str] = []
    load = recipes.load_recipe

    def shout(run: Run, *, loudness: int = 3) -> None:
        """Shout the name of a recipe.

        Args:
            loudness: How loud.
        """
        done.append((run.recipe.name, loudness))

    def counted(recipe: str, **more: Any) -> Any:
        loaded.append(recipe)
        return load(recipe, **more)

    monkeypatch.setattr(recipes, "load_recipe", counted)
    monkeypatch.setattr(prefect_flows, "load_recipe", counted)
    monkeypatch.setattr(prefect_flows, "PrefectExecutor", lambda *_: nullcontext())
    monkeypatch.setitem(JOBS, "shout", Job(flow="shout-it", run=shout, require=lambda *_: None, makes="model"))
    command = command_of("shout", lambda request, **options: with_executor("shout", request, **options))
    command("scenes", root=tmp_path, executor="local", loudness=5)
    prefect_flows.flow_of("shout").fn(recipe="scenes", root=str(tmp_path))
    assert done == [("scenes", 5), ("scenes", 3)]
    assert loaded == ["scenes", "scenes"]
    recipe = load("italian", root=tmp_path)
    prefect_flows.flow_of("shout", recipe).fn(recipe="italian", root=str(tmp_path))
    assert done[-1] == ("italian", 3)
    assert len(loaded) == 2, "a recipe that is given is not read again"

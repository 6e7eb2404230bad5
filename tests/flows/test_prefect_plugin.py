"""Bare deployment names, without a server; `test_services.py` gives the literal command to a real one."""

import asyncio
import importlib
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from data_catalog.errors import SettingsError


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    return importlib.import_module("flows.orchestration.prefect_plugin")


@pytest.mark.parametrize(("flows", "expected"), [(["build-dataset"], "build-dataset/twin"), ([], "twin/twin")])
def test_one_flow_is_filled_in(plugin: ModuleType, flows: Sequence[str], expected: str) -> None:
    assert plugin.full_name("twin", flows) == expected


def test_several_flows_are_listed(plugin: ModuleType) -> None:
    with pytest.raises(SettingsError, match="name one of a/twin, b/twin"):
        plugin.full_name("twin", ["b", "a"])


class Client:
    """A client of a server with one deployment `scenes`, of the flow `build-dataset`."""

    def read_deployments(self, deployment_filter: Any) -> list[SimpleNamespace]:
        return [SimpleNamespace(flow_id=1)] if deployment_filter.name.any_ == ["scenes"] else []

    def read_flow(self, flow_id: int) -> SimpleNamespace:
        return SimpleNamespace(name="build-dataset")

    def read_deployment_by_name(self, name: str) -> str:
        return f"found {name}"


class AsyncClient:
    """The same, to be awaited."""

    async def read_deployments(self, deployment_filter: Any) -> list[SimpleNamespace]:
        return Client().read_deployments(deployment_filter)

    async def read_flow(self, flow_id: int) -> SimpleNamespace:
        return Client().read_flow(flow_id)

    async def read_deployment_by_name(self, name: str) -> str:
        return f"found {name}"


def test_bare_and_full_names_are_understood_by_both_clients(plugin: ModuleType) -> None:
    plugin.wrap_lookup(AsyncClient, Client)
    plugin.wrap_lookup(AsyncClient, Client)  # twice is as good as once
    for name, expected in (
        ("scenes", "found build-dataset/scenes"),
        ("x/scenes", "found x/scenes"),
        ("none", "found none/none"),
    ):
        assert Client().read_deployment_by_name(name) == expected
        assert asyncio.run(AsyncClient().read_deployment_by_name(name)) == expected


def test_a_prefect_that_has_moved_its_client_goes_on_with_full_names(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "prefect.client.orchestration._deployments.client", None)
    with caplog.at_level(logging.WARNING):
        plugin.setup_environment(ctx=SimpleNamespace(prefect_version="9.9"))
    assert "use full names" in caplog.text


def test_prefect_finds_the_plugin() -> None:
    (point,) = [point for point in entry_points(group="prefect.plugins") if point.name == "vernaclip"]
    assert point.value == "flows.orchestration.prefect_plugin"

"""Bare deployment names, without a server; `test_services.py` gives the literal command to a real one."""

import asyncio
import logging
import sys
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import pytest

from data_catalog.errors import SettingsError
from flows.orchestration import prefect_plugin


class Client:
    """A client of a server with the deployments `scenes`, of the flow `build-dataset`, and `twin`, of two flows."""

    def read_deployments(self, deployment_filter: Any) -> list[SimpleNamespace]:
        flows = {"scenes": ["build-dataset"], "twin": ["b", "a"]}
        return [SimpleNamespace(flow_id=flow) for flow in flows.get(deployment_filter.name.any_[0], [])]

    def read_flow(self, flow_id: str) -> SimpleNamespace:
        return SimpleNamespace(name=flow_id)

    def read_deployment_by_name(self, name: str) -> str:
        return f"found {name}"


class AsyncClient:
    """The same, to be awaited."""

    async def read_deployments(self, deployment_filter: Any) -> list[SimpleNamespace]:
        return Client().read_deployments(deployment_filter)

    async def read_flow(self, flow_id: str) -> SimpleNamespace:
        return Client().read_flow(flow_id)

    async def read_deployment_by_name(self, name: str) -> str:
        return f"found {name}"


def test_bare_and_full_names_are_understood_by_both_clients() -> None:
    for _ in range(2):  # twice is as good as once
        prefect_plugin.wrap_lookup(AsyncClient, Client)
    names = {"scenes": "build-dataset/scenes", "x/scenes": "x/scenes", "none": "none/none"}
    for name, expected in names.items():
        assert Client().read_deployment_by_name(name) == f"found {expected}"
        assert asyncio.run(AsyncClient().read_deployment_by_name(name)) == f"found {expected}"
    with pytest.raises(SettingsError, match="one of a/twin, b/twin"):
        Client().read_deployment_by_name("twin")


def test_prefect_finds_the_plugin_and_one_that_has_moved_its_client_goes_on_with_full_names(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (point,) = [point for point in entry_points(group="prefect.plugins") if point.name == "vernaclip"]
    monkeypatch.setitem(sys.modules, "prefect.client.orchestration._deployments.client", None)
    with caplog.at_level(logging.WARNING):
        point.load().setup_environment(ctx=SimpleNamespace(prefect_version="9.9"))
    assert "use full names" in caplog.text

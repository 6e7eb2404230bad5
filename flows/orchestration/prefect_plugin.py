"""A Prefect plugin that accepts deployments by their short name: `prefect deployment run build-dataset`.

Prefect itself requires FLOW/DEPLOYMENT. It loads this module (entry-point group `prefect.plugins`) at `import prefect`
in folders whose settings switch plugins on. The plugin wraps a private module of Prefect. If a version of Prefect has
moved it, only full names work, and a warning says so.
"""

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefect.plugins import SetupResult, register_hook

from data_catalog.base.errors import SettingsError
from flows.orchestration.prefect_env import no_proxy

if TYPE_CHECKING:
    from prefect.plugins import HookContext

logger = logging.getLogger(__name__)


@register_hook
def setup_environment(*, ctx: "HookContext") -> SetupResult:
    """Wrap the look-up of deployments by name, and bypass proxies for this machine. Prefect calls this at start-up."""
    try:
        from prefect.client.orchestration._deployments.client import DeploymentAsyncClient, DeploymentClient

        wrap_lookup(DeploymentAsyncClient, DeploymentClient)
    except (ImportError, AttributeError):
        logger.warning(
            "vernaclip's plugin does not work with Prefect %s: use full names, such as build-dataset/build-dataset",
            ctx.prefect_version,
        )
    return SetupResult(env={"no_proxy": no_proxy()})


def wrap_lookup(async_client: Any, client: Any) -> None:
    """Wrap `read_deployment_by_name` of Prefect's two client classes to accept short names, unless it is wrapped."""
    if hasattr(async_client.read_deployment_by_name, "__wrapped__"):
        return
    read_async, read = async_client.read_deployment_by_name, client.read_deployment_by_name

    @functools.wraps(read_async)
    async def read_any_async(self: Any, name: str) -> Any:
        if "/" not in name:
            found = await self.read_deployments(deployment_filter=_named(name))
            name = full_name(name, [(await self.read_flow(flow_id=each.flow_id)).name for each in found])
        return await read_async(self, name)

    @functools.wraps(read)
    def read_any(self: Any, name: str) -> Any:
        if "/" not in name:
            found = self.read_deployments(deployment_filter=_named(name))
            name = full_name(name, [self.read_flow(flow_id=each.flow_id).name for each in found])
        return read(self, name)

    async_client.read_deployment_by_name, client.read_deployment_by_name = read_any_async, read_any


def _named(name: str) -> Any:
    from prefect.client.schemas.filters import DeploymentFilter

    return DeploymentFilter.model_validate({"name": {"any_": [name]}})


def full_name(name: str, flows: Sequence[str]) -> str:
    """Return FLOW/DEPLOYMENT for a short deployment name.

    Args:
        name: the short name.
        flows: names of the flows with such a deployment; if empty, NAME/NAME is returned, which Prefect does not find.

    Raises:
        SettingsError: several flows have such a deployment.
    """
    if len(flows) > 1:
        choices = ", ".join(sorted(f"{flow}/{name}" for flow in flows))
        raise SettingsError(f"several flows have a deployment {name!r}: use one of {choices}")
    return f"{flows[0] if flows else name}/{name}"

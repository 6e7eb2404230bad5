"""A Prefect plugin by which the bare name of a deployment will do: `prefect deployment run build-dataset`.

Prefect asks for FLOW/DEPLOYMENT. It loads this module (entry-point group `prefect.plugins`) at `import prefect`, in
folders whose settings switch plugins on. What it wraps is a private module of Prefect's: with a version that has moved
it, full names go on working, and a warning says so.
"""

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefect.plugins import SetupResult, register_hook

from data_catalog.errors import SettingsError
from flows.orchestration.prefect_env import no_proxy

if TYPE_CHECKING:
    from prefect.plugins import HookContext

logger = logging.getLogger(__name__)


@register_hook
def setup_environment(*, ctx: "HookContext") -> SetupResult:
    """Prefect's start-up hook: wrap, once, the look-up of deployments by name; keep proxies out of the way."""
    try:
        from prefect.client.orchestration._deployments.client import DeploymentAsyncClient, DeploymentClient

        wrap_lookup(DeploymentAsyncClient, DeploymentClient)
    except (ImportError, AttributeError):
        logger.warning(
            "Prefect %s looks deployments up in a new way: name them in full, as in build-dataset/build-dataset",
            ctx.prefect_version,
        )
    return SetupResult(env={"no_proxy": no_proxy()})


def wrap_lookup(async_client: Any, client: Any) -> None:
    """Make `read_deployment_by_name` of Prefect's two client classes understand bare names; once is enough."""
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
    """Return FLOW/DEPLOYMENT for a bare deployment name, given the flows that have such a deployment.

    Without any it is NAME/NAME, which Prefect then reports as not found.

    Raises:
        SettingsError: several flows have one.
    """
    if len(flows) > 1:
        choices = ", ".join(sorted(f"{flow}/{name}" for flow in flows))
        raise SettingsError(f"several flows have a deployment {name!r}: name one of {choices}")
    return f"{flows[0] if flows else name}/{name}"

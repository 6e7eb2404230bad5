"""A Prefect plugin that accepts deployments by their short name: `prefect deployment run build-dataset`.

Prefect itself requires FLOW/DEPLOYMENT. It loads this module (entry-point group `prefect.plugins`) at `import prefect`
in folders whose settings switch plugins on. The plugin wraps a private module of Prefect. If a version of Prefect has
moved it, only full names work, and a warning says so.
"""

import functools
import logging
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
        from prefect.client.orchestration._deployments.client import DeploymentAsyncClient

        wrap_lookup(DeploymentAsyncClient)
    except (ImportError, AttributeError):
        text = "vernaclip's plugin does not work with Prefect %s: use full names, such as build-dataset/build-dataset"
        logger.warning(text, ctx.prefect_version)
    return SetupResult(env={"no_proxy": no_proxy()})


def wrap_lookup(client: Any) -> None:
    """Wrap `read_deployment_by_name` of Prefect's client class, unless it is wrapped, to accept short names.

    One stands for the only flow that has such a deployment; without one Prefect itself finds no NAME/NAME.
    """
    from prefect.client.schemas.filters import DeploymentFilter

    read = client.read_deployment_by_name
    if hasattr(read, "__wrapped__"):
        return

    @functools.wraps(read)
    async def read_any(self: Any, name: str) -> Any:
        if "/" not in name:
            of_name = DeploymentFilter.model_validate({"name": {"any_": [name]}})
            found = await self.read_deployments(deployment_filter=of_name)
            flows = sorted([(await self.read_flow(flow_id=each.flow_id)).name for each in found]) or [name]
            if len(flows) > 1:
                choices = ", ".join(f"{flow}/{name}" for flow in flows)
                raise SettingsError(f"several flows have a deployment {name!r}: use one of {choices}")
            name = f"{flows[0]}/{name}"
        return await read(self, name)

    client.read_deployment_by_name = read_any

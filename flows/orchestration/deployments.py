"""What is deployed: each flow under its own name, and the dataset's flow once more under each recipe's name.

So `prefect deployment run build-dataset` is unique (our plugin fills in the flow), and takes the recipe as a parameter;
`build-dataset/italian` has it filled in.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

AUTOMATION = "vernaclip: runs without a heartbeat have crashed"

# Silence after which a run counts as dead: three heartbeats may be lost, or one C call may keep all other threads out
# for a minute and a half. `vernaclip up` finds dead runs of this machine at once, so nobody has to wait for this.
SILENCE_S = 120

_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


def ensure_automation(client: "SyncPrefectClient", flows: Iterable[str]) -> None:
    """Make the automation, or bring it up to date; one that a user has switched off stays off.

    Args:
        client: of the server.
        flows: names of our flows, whose runs it looks at, deployed or not: others on the same server are none of its
            business.
    """
    wanted = _automation(flows)
    found = client.read_automations_by_name(AUTOMATION)
    if not found:
        client.create_automation(wanted)
        return
    first, *more = found
    for each in more:
        client.delete_automation(each.id)
    # Not without need: a changed automation forgets which runs it was waiting for.
    if _meaning(first) != _meaning(wanted):
        client.update_automation(first.id, wanted.model_copy(update={"enabled": first.enabled}))


def _meaning(automation: "AutomationCore") -> dict[str, Any]:
    # As Python values: in JSON its sets are lists, whose order is of chance.
    return automation.model_dump(include={"trigger", "actions"}, exclude={"trigger": {"id"}})


def _automation(flows: Iterable[str]) -> "AutomationCore":
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    trigger = EventTrigger(
        after={_HEARTBEAT},
        expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _ENDS)},
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": sorted(flows)},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=SILENCE_S),
    )
    message = f"no heartbeat for {SILENCE_S} s: its process is gone"
    return AutomationCore(
        name=AUTOMATION,
        description="Made by `vernaclip up`.",
        enabled=True,
        trigger=trigger,
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name=None, message=message, force=False)],
    )


WORK_POOL = "vernaclip"
BUILD_FLOW = "build-dataset"


def deploy_all(client: "SyncPrefectClient", project: Path) -> list[str]:
    """Create or renew all that the server needs to know; runs will have `project` as their current folder.

    That is the work pool, the deployments, and the automation that finds runs without a heartbeat.

    Returns:
        The deployments as Prefect writes them: FLOW/DEPLOYMENT.
    """
    from flows.orchestration.prefect_flows import FLOWS
    from flows.recipe.recipe import recipe_names

    ensure_work_pool(client)
    ensure_automation(client, FLOWS)
    made: list[tuple[str, str, dict[str, str]]] = [(flow, flow, {}) for flow in FLOWS]
    made += [(BUILD_FLOW, recipe, {"recipe": recipe}) for recipe in recipe_names()]
    for flow, name, parameters in made:
        deploy(client, FLOWS[flow], name=name, parameters=parameters, project=project.resolve())
    return [f"{flow}/{name}" for flow, name, _ in made]


def ensure_work_pool(client: "SyncPrefectClient") -> None:
    """Create the work pool, of processes on this machine, unless it is there."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type=ProcessWorker.type, base_job_template=template))


def deploy(client: "SyncPrefectClient", flow: "Flow[..., Any]", *, name: str, parameters: Any, project: Path) -> None:
    """Create a deployment of a flow on our work pool, or renew it.

    Args:
        client: of the server.
        flow: a function of an importable module.
        name: of the deployment.
        parameters: those that differ from the flow's own defaults.
        project: absolute path of the current folder of its runs.
    """
    from prefect.utilities.callables import parameter_schema

    client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=name,
        description=flow.description,
        parameters=parameters,
        # Of a misspelt parameter the server says so at once; the run would crash.
        parameter_openapi_schema={**parameter_schema(flow.fn).model_dump(), "additionalProperties": False},
        enforce_parameter_schema=True,
        work_pool_name=WORK_POOL,
        # A module, not a file: Prefect would put the file's folder on the path, in front of packages of other names.
        entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}",
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(project)}}],
    )

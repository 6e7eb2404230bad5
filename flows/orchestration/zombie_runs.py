"""Runs whose process is gone without a word: the server marks them as crashed when their heartbeats stop.

Each run says "I live" every `HEARTBEAT_S` seconds, from a thread of its own; an automation on the server waits for it.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

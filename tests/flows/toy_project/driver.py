"""`up` and `down` of a project with toy flows: prints what they return, or the error's text."""

import json
import sys
from pathlib import Path
from typing import Any

from data_catalog.errors import PipelineError
from flows.orchestration.services import deploy, down, ensure_automation, ensure_work_pool, up


def deploy_toys(client: Any, project: Path) -> tuple[()]:
    import toy_flows

    ensure_work_pool(client)
    ensure_automation(client, ["build-dataset"])
    toys = ((toy_flows.toy, "toy"), (toy_flows.toy, "twin"), (toy_flows.other, "twin"))
    for flow, name in (*toys, (toy_flows.waiting, "waiting"), (toy_flows.stuck, "stuck")):
        deploy(client, flow, name=name, parameters={}, project=project)
    return ()


def answer() -> Any:
    """What the command comes to, as a JSON value."""
    if sys.argv[1] == "up":
        services = up(Path.cwd(), port=int(sys.argv[2]) if len(sys.argv) > 2 else None, deploy=deploy_toys)
        return services.started, services.ours
    return down(Path.cwd(), now="--now" in sys.argv)


try:
    told = answer()
except PipelineError as error:
    told = str(error)
sys.stdout.write(json.dumps(told))

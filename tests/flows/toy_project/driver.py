"""`up` and `down` of a project with toy flows, and flows in this process: prints what they come to as JSON."""

import json
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

from flows.orchestration.prefect_env import configured_api, prepare_process
from flows.orchestration.server import use_answering_api
from flows.orchestration.services import deploy, down, ensure_work_pool, up


def deploy_toys(client: Any, project: Path) -> tuple[()]:
    import toy_flows

    ensure_work_pool(client)
    for flow, name in ((toy_flows.toy, "toy"), (toy_flows.toy, "twin"), (toy_flows.other, "twin")):
        deploy(client, flow, name=name, parameters={}, project=project)
    return ()


def say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def flows(*words: str) -> None:
    """Say whether a server is configured, and which one is used; run flows, each named before its word; stay."""
    prepare_process()
    is_configured = use_answering_api(Path.cwd())
    api = configured_api()
    assert api is not None
    say([is_configured, *astuple(api)[:2]])
    import toy_flows

    for flow, word in zip(words[::2], words[1::2], strict=True):
        say(getattr(toy_flows, flow)(word))
    sys.stdin.read()


def main(command: str, *words: str) -> None:
    """Do one of the three."""
    if command == "flows":
        flows(*words)
    elif command == "up":
        say(up(Path.cwd(), port=int(words[0]) if words else None, deploy=deploy_toys)[1])
    else:
        say(down(Path.cwd(), now="--now" in words))


if __name__ == "__main__":
    main(*sys.argv[1:])

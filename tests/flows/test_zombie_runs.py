"""The automation that finds runs without a heartbeat: made once, renewed where it differs, and only there."""

from datetime import timedelta
from itertools import permutations
from typing import Any
from uuid import uuid4

import pytest
from prefect.events.schemas.automations import Automation, AutomationCore

from flows.orchestration.services import ensure_automation


class Server:
    """Keeps automations as a Prefect server does: as JSON, in which sets are lists."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.num_updates = 0

    def read_automations_by_name(self, name: str) -> list[Automation]:
        return [Automation.model_validate(each) for each in self.kept if each["name"] == name]

    def create_automation(self, automation: AutomationCore) -> None:
        self.kept.append({**automation.model_dump(mode="json"), "id": str(uuid4())})

    def update_automation(self, automation_id: Any, automation: AutomationCore) -> None:
        self.num_updates += 1
        self.kept = [{**automation.model_dump(mode="json"), "id": str(automation_id)}]

    def delete_automation(self, automation_id: Any) -> None:
        self.kept = [each for each in self.kept if each["id"] != str(automation_id)]


@pytest.fixture
def server() -> Server:
    found = Server()
    ensure_automation(found, ["build-dataset", "train-clip"])  # type: ignore[arg-type]
    assert len(found.kept) == 1
    return found


def test_no_order_of_its_sets_makes_it_another_one(server: Server) -> None:
    expected = server.kept[0]["trigger"]["expect"]
    for order in permutations(expected):
        server.kept[0]["trigger"]["expect"] = list(order)
        ensure_automation(server, ["build-dataset", "train-clip"])  # type: ignore[arg-type]
    assert server.num_updates == 0


def test_one_that_differs_is_renewed_and_others_of_its_name_go(server: Server) -> None:
    server.kept[0] |= {"enabled": False, "trigger": {**server.kept[0]["trigger"], "within": 20.0}}
    server.kept.append({**server.kept[0], "id": str(uuid4())})
    ensure_automation(server, ["build-dataset", "train-clip"])  # type: ignore[arg-type]
    (left,) = server.read_automations_by_name(server.kept[0]["name"])
    assert (server.num_updates, left.enabled, left.trigger.within) == (1, False, timedelta(seconds=120))  # type: ignore[union-attr]

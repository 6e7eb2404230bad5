"""A robots.txt parsed by Protego, after what concerns other robots only has been taken out."""

import re
from typing import Protocol

# The spellings of "User-agent" that Protego reads.
_AGENT_LINE = re.compile(r"\s*(?:user[- ]?agent\s*:|user(?:-|\s+)?agent\s)\s*([^#]*)", re.IGNORECASE)
# Our own name has no slash.
_OTHERS = "/others"


class Rules(Protocol):
    """As much of a parsed robots.txt as is asked."""

    def can_fetch(self, url: str, user_agent: str) -> bool:
        """True if the robot of that name may ask for the URL."""

    def crawl_delay(self, user_agent: str) -> float | None:
        """Seconds between two requests, if the file asks for some."""


def rules_of(body: str, robot: str) -> Rules:
    """The rules of a robots.txt for the robot of that name.

    All other robots become one: a file that names thousands of them before thousands of rules, which takes each rule
    for each robot, would otherwise fill the memory.
    """
    from protego import Protego

    rules: Rules = Protego.parse("\n".join(_for_robot(line, robot.lower()) for line in body.splitlines()))
    return rules


def _for_robot(line: str, robot: str) -> str:
    found = _AGENT_LINE.match(line)
    if found is None:
        return line
    name = found[1].strip().lower()
    if name not in ("", "*"):  # without a name, the line only ends the group before it
        name = name.replace("*", "")
        name = name if name and re.search(rf"(?<![\w-]){re.escape(name)}", robot) else _OTHERS
    return f"User-agent: {name}"

"""The steps in `docs/architecture.md` are those of the code; run this file to write them there."""

import re
from pathlib import Path

from flows.build.engine import Lane, Scope
from flows.build.steps import STEPS

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
BEGIN, END = "<!-- steps: written from flows/build/steps.py -->", "<!-- end of steps -->"
SEES = {Scope.MAKES_SHARDS: "all sources", Scope.WHOLE: "all shards"}


def rewritten(page: str) -> str:
    rows = ["|step|what it does|it sees|it reads|lane|", "|---|---|---|---|---|"]
    for step in STEPS:
        lane = step.lane.name if isinstance(step.lane, Lane) else f"`{step.name}` or `{step.name}-HOST`"
        reads = ", ".join(f"`{name}`" for name in step.after) or "upstream files"
        sees = SEES.get(step.scope, step.scope.value)
        rows.append(f"|`{step.name}`|{step.meaning}|{sees}|{reads}|{lane}|")
    text = "\n".join([BEGIN, *rows, END])
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: text, page, flags=re.DOTALL)


def test_the_page_has_the_table_of_steps_as_the_code_has_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert BEGIN in page
    assert rewritten(page) == page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

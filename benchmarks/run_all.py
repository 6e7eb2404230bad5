"""Run every benchmark: python benchmarks/run_all.py [--keep FOLDER --write PAGE].

`--keep` keeps what each printed; the same command goes on where it was stopped. `--write` writes the claims as a page
in Markdown, with those of `--before`, a checkout of earlier code, whose benchmarks of the same names run in turn with
these; the page keeps its lines of benchmarks that did not run. `--teacher` goes to those that need one. Exits with 1
if a claim is short, or a benchmark failed.
"""

import datetime
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_folder import options_with_data
from harness import HERE, work_folder

CLAIM = re.compile(r"^claim (\S+) (\S+) goal (\S+) (ok|short)$", re.MULTILINE)
OPTIONS = ("data", "teacher")  # given to each benchmark that has them
INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx512f", "avx2")
WITHOUT = 2  # exit code of a benchmark whose data or tools are missing


def commit_of(checkout: Path) -> str:
    """Return the commit of a checkout, and its day."""
    return subprocess.check_output(["git", "-C", checkout, "log", "-1", "--format=%h of %cs"], text=True).strip()


def machine() -> str:
    """Return the cores of this machine, and the widest instructions that speed depends on."""
    processor = Path("/proc/cpuinfo").read_text("utf-8")
    widest = next((name for name in INSTRUCTIONS if name in processor), "")
    return f"{os.cpu_count()} cores, {widest}{', bfloat16' * ('_bf16' in processor)}"


def run(script: Path, own: Sequence[str], options: Mapping[str, Any], kept: Path) -> dict[str, Any]:
    """Run a benchmark, with options of its own, by the code of its checkout; return what it printed, which is kept."""
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return found
    text = script.read_text("utf-8")
    command = [sys.executable, str(script), *own, *(["--quick"] if options["quick"] else [])]
    for name in OPTIONS:
        has_it = f'"--{name}"' in text or (name == "data" and "options_with_data" in text)
        command += [f"--{name}", str(options[name].resolve())] if has_it and options[name] else []
    checkout, started = script.parent.parent, time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    ended = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = ended.stdout.decode(errors="replace")
    found = {
        "code": commit_of(checkout),
        "day": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "machine": machine(),
        "rc": ended.returncode,
        "minutes": (time.monotonic() - started) / 60,
        "output": output,
    }
    kept.write_text(json.dumps(found, indent=1), "utf-8")
    return found


HEADING = """\
# What was measured?

`make bench-full` writes this page. The first lines of each file in `benchmarks/` say what it measures. "Before" is
the value of earlier code on the same machine. Values in bold are short of their goals. A
benchmark without lines did not run yet.

|benchmark and claim|value|before|goal|
|---|---|---|---|
"""


def lines_of(name: str, found: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    """Return the lines of a benchmark on the page: when and where it ran, and its claims, or why it made none."""
    claims = CLAIM.findall(found["output"])
    earlier = {claim: value for claim, value, *_ in CLAIM.findall(before["output"])} if before else {}
    code = found["code"] + (f", before: {before['code']}" if before and earlier else "")
    lines = [f"|**{name}**, {found['day']}, {found['minutes']:.0f} minutes, {found['machine']}, {code}||||"]
    for claim, value, goal, verdict in claims:
        lines.append(f"|{claim}|{value if verdict == 'ok' else f'**{value}**'}|{earlier.get(claim, '')}|{goal}|")
    if found["rc"] and not claims:
        lines.append(f"|{'not measured' if found['rc'] == WITHOUT else 'failed'}: {last_line(found)}||||")
    return "\n".join(lines) + "\n"


def page(found: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]], old: str) -> str:
    """Return the page; of benchmarks that did not run now, it has the lines of the old page."""
    lines = {group.split("**")[0]: f"|**{group}" for group in old.split("\n|**")[1:]}
    lines = {name: text for name, text in lines.items() if (HERE / f"{name.split()[0]}.py").is_file()}
    lines |= {name: lines_of(name, each, before.get(name)) for name, each in found.items()}
    return HEADING + "\n".join(lines[name].rstrip("\n") for name in sorted(lines)) + "\n"


def last_line(found: Mapping[str, Any]) -> str:
    """Return the last line that a benchmark printed."""
    return (found["output"].strip().splitlines() or [""])[-1].replace("|", "/")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all benchmarks that have claims, print what each printed, and name those that are short or failed."""
    parser = options_with_data(__doc__)
    parser.add_argument("--keep", type=Path, help="folder that keeps what each benchmark printed (default: temporary)")
    parser.add_argument("--write", type=Path, help="page of all claims, in Markdown")
    parser.add_argument("--before", type=Path, help="checkout of earlier code to compare with")
    parser.add_argument("--teacher", type=Path, help="model folder of an English model, for those that need one")
    parser.add_argument("--only", nargs="+", help="benchmarks, in quotes with options (default: all)")
    options = parser.parse_args(arguments)
    found, before = dict[str, Any](), dict[str, Any]()
    names = [
        path.stem for path in HERE.glob("*.py") if "__main__" in path.read_text("utf-8") and path.stem != "run_all"
    ]
    with work_folder(options.keep) as keep:
        for called in options.only or sorted(names):
            (name, *own), kept = called.split(), re.sub(r"[^\w.-]+", "_", called) + "-quick" * options.quick
            earlier = options.before and options.before.resolve() / "benchmarks" / f"{name}.py"
            if earlier and earlier.is_file():
                before[called] = run(earlier, own, vars(options), keep / f"{kept}.before.json")
            found[called] = run(HERE / f"{name}.py", own, vars(options), keep / f"{kept}.json")
            print(f"# {called}: {found[called]['minutes']:.1f} minutes\n\n{found[called]['output']}", flush=True)
    if options.write:
        old = options.write.read_text("utf-8") if options.write.is_file() else ""
        options.write.write_text(page(found, before, old), "utf-8")
    bad = [name for name, each in found.items() if each["rc"] not in (0, WITHOUT)]
    print(f"short or failed: {' '.join(bad)}" if bad else "no claim was short")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())

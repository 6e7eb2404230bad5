"""Run every benchmark: python benchmarks/run_all.py [--keep FOLDER --write PAGE].

`--keep` keeps what each printed; the same command goes on where it was stopped. `--write` writes the claims as a page
in Markdown, with those of `--before`, a checkout of earlier code, whose benchmarks of the same names run in turn with
these. `--teacher` goes to those that need one. Exits with 1 if a claim is short, or a benchmark failed.
"""

import datetime
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_folder import options_with_data
from harness import HERE, work_folder

CLAIM = re.compile(r"^claim (\S+) (\S+) goal (\S+) (ok|short)$", re.MULTILINE)
OPTIONS = ("data", "teacher")  # given to each benchmark that has them
WITHOUT = 2  # exit code of a benchmark whose data or tools are missing


def commit_of(checkout: Path) -> str:
    """Return the commit of a checkout, and its day."""
    return subprocess.check_output(["git", "-C", checkout, "log", "-1", "--format=%h of %cs"], text=True).strip()


def run(script: Path, options: Mapping[str, Any], kept: Path) -> dict[str, Any]:
    """Run a benchmark with the code of its checkout; return its exit code, minutes and output, which are kept."""
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return found
    text = script.read_text("utf-8")
    command = [sys.executable, str(script), *(["--quick"] if options["quick"] else [])]
    for name in OPTIONS:
        has_it = f'"--{name}"' in text or (name == "data" and "options_with_data" in text)
        command += [f"--{name}", str(options[name].resolve())] if has_it and options[name] else []
    checkout, started = script.parent.parent, time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    ended = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = ended.stdout.decode(errors="replace")
    found = {
        "code": commit_of(checkout),
        "rc": ended.returncode,
        "minutes": (time.monotonic() - started) / 60,
        "output": output,
    }
    kept.write_text(json.dumps(found, indent=1), "utf-8")
    return found


def page(found: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the page: each claim, and why a benchmark made none."""
    now, earlier = (", ".join(sorted({each["code"] for each in results.values()})) for results in (found, before))
    code = f"Code: {now}." + f" Before: {earlier}." * bool(before)
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text("utf-8"))
    today, hours = datetime.datetime.now(datetime.UTC).date(), sum(each["minutes"] for each in found.values()) / 60
    yield "# What was measured?\n"
    yield f"`make bench-full` on {today}, {hours:.1f} hours, {os.cpu_count()} cores: "
    yield f"{processor[1] if processor else 'an unknown processor'}. {code} The first lines of `benchmarks/NAME.py` say"
    yield "what it measures. Values in bold are short of their goals.\n"
    yield "|benchmark|claim|value|before|goal|\n|---|---|---|---|---|"
    for name, each in found.items():
        values = {claim: value for claim, value, *_ in CLAIM.findall(before.get(name, {}).get("output", ""))}
        for claim, value, goal, verdict in CLAIM.findall(each["output"]):
            shown = value if verdict == "ok" else f"**{value}**"
            yield f"|{name}|{claim}|{shown}|{values.get(claim, '')}|{goal}|"
    for name, each in found.items():
        if each["rc"] and not CLAIM.search(each["output"]):
            yield f"|{name}|{'not measured' if each['rc'] == WITHOUT else 'failed'}: {last_line(each)}| | | |"


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
    parser.add_argument("--only", nargs="+", help="names of benchmarks (default: all)")
    options = parser.parse_args(arguments)
    found, before = dict[str, Any](), dict[str, Any]()
    scripts = (path for path in sorted(HERE.glob("*.py")) if "__main__" in path.read_text("utf-8"))
    with work_folder(options.keep) as keep:
        for script in scripts:
            name, kind = script.stem, "-quick" * options.quick
            if script.name == Path(__file__).name or (options.only and name not in options.only):
                continue
            earlier = options.before and options.before.resolve() / "benchmarks" / script.name
            if earlier and earlier.is_file():
                before[name] = run(earlier, vars(options), keep / f"{name}{kind}.before.json")
            found[name] = run(script, vars(options), keep / f"{name}{kind}.json")
            print(f"# {name}: {found[name]['minutes']:.1f} minutes\n\n{found[name]['output']}", flush=True)
    if options.write:
        options.write.write_text("\n".join(page(found, before)) + "\n", "utf-8")
    bad = [name for name, each in found.items() if each["rc"] not in (0, WITHOUT)]
    print(f"short or failed: {' '.join(bad)}" if bad else "no claim was short")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())

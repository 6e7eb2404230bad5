"""How long `vernaclip --help` takes, beside a bare interpreter: python benchmarks/startup.py [--quick]."""

import argparse
import statistics
import subprocess
import sys
import time

GOAL_S = 0.5
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "vernaclip --help": [sys.executable, "-m", "flows.cli", "--help"],
    "vernaclip recipes": [sys.executable, "-m", "flows.cli", "recipes"],
}


def seconds(command: list[str]) -> float:
    """Wall-clock time of one run of a command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> int:
    """Interleave the commands, print medians, judge the claim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 5 if parser.parse_args().quick else 20
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    print(f"{'command':<20} {'median s':>9} {'worst s':>9}   ({rounds} rounds, interleaved)")
    for name, found in times.items():
        print(f"{name:<20} {statistics.median(found):>9.3f} {max(found):>9.3f}")
    value = statistics.median(times["vernaclip --help"])
    verdict = "ok" if value < GOAL_S else "short"
    print(f"claim help-startup-seconds {value:.3f} goal <{GOAL_S} {verdict}")
    return int(verdict == "short")


if __name__ == "__main__":
    sys.exit(main())

"""How long `vernaclip --help` and `import vernaclip` take, beside a bare interpreter: python benchmarks/startup.py."""

import argparse
import statistics
import subprocess
import sys
import time

GOALS_S = {"vernaclip --help": ("help-startup-seconds", 0.5), "import vernaclip": ("import-seconds", 0.3)}
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import vernaclip": [sys.executable, "-c", "import vernaclip"],
    "vernaclip --help": [sys.executable, "-m", "vernaclip", "--help"],
    "vernaclip recipes": [sys.executable, "-m", "vernaclip", "recipes"],
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
    is_short = False
    for name, (claim, goal) in GOALS_S.items():
        value = statistics.median(times[name])
        is_short |= value >= goal
        print(f"claim {claim} {value:.3f} goal <{goal} {'ok' if value < goal else 'short'}")
    return int(is_short)


if __name__ == "__main__":
    sys.exit(main())

"""Start-up time of `vernaclip --help` and `import vernaclip`, beside Python's own: python benchmarks/startup.py."""

import subprocess
import sys
from functools import partial

from harness import judge, medians, options_of, print_table, race

GOALS = {"help-startup-seconds": ("<", 0.5), "import-seconds": ("<", 0.3)}
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import vernaclip": ["-c", "import vernaclip"],
    "vernaclip --help": ["-m", "vernaclip", "--help"],
    "vernaclip recipes": ["-m", "vernaclip", "recipes"],
}


def main() -> int:
    """Run the commands in turn, print medians, judge the claims."""
    rounds = 5 if options_of(__doc__).parse_args().quick else 20
    start = partial(subprocess.run, check=True, capture_output=True)
    times = race({name: partial(start, [sys.executable, *words]) for name, words in COMMANDS.items()}, rounds)
    found = medians(times)
    print_table(
        [{"command": name, "median s": f"{found[name]:.3f}", "worst s": f"{max(times[name]):.3f}"} for name in times]
    )
    return judge(
        {"help-startup-seconds": found["vernaclip --help"], "import-seconds": found["import vernaclip"]}, GOALS
    )


if __name__ == "__main__":
    sys.exit(main())

"""Run the command line with `python -m flows.cli`."""

import sys

from flows.cli import main

if __name__ == "__main__":
    sys.argv[0] = "vernaclip"  # a lock tells others what its holder was called with
    sys.exit(main())

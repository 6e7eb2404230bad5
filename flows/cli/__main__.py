"""Entry point of `python -m flows.cli`."""

import sys

from flows.cli import main

if __name__ == "__main__":
    sys.argv[0] = "vernaclip"  # a lock file records the command line of its holder
    sys.exit(main())

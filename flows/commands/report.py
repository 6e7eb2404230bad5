"""The command that writes the page of a dataset: `vernaclip report DATASET`."""

from argparse import Namespace
from contextlib import nullcontext

from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import require_snapshot
from flows.commands.output import require_own_file, say
from flows.report.page import write_report
from flows.report_options import check_report_options


def report(options: Namespace) -> None:
    """Write the page about a dataset's current snapshot, and say where it lies."""
    check_report_options(options)
    if options.out is not None:
        require_own_file(options.out)
    require_snapshot(options.root, options.dataset)  # before a lock makes the root
    with nullcontext() if options.out else writer_lock(options.root):
        snapshot = require_snapshot(options.root, options.dataset)
        path = write_report(options.root, snapshot, out=options.out, num_examples=options.examples)
    say(f"Report of {snapshot.dataset} {snapshot.snapshot}: {path}")

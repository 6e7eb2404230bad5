"""What can go wrong, by what is to be done about it.

PipelineError
  + ConfigError      settings or input files are wrong: mend them; raised before work starts
  + ShardError       one shard could not be done: the run goes on, reports it and exits 1
  + TransientError   may pass: the only kind that is retried

Trouble with a single row is data, not an exception: the row is rejected with a `drop_reason`.
"""


class PipelineError(Exception):
    """Base of every error that vernaclip raises on purpose; its text is one sentence that says what to do."""


class ConfigError(PipelineError):
    """A setting or an input file is wrong: found before work starts, never retried."""


class ShardError(PipelineError):
    """A shard could not be finished; other shards go on."""


class TransientError(PipelineError):
    """A cause outside the program that may be gone at the next try."""


def extra_to_install(extra: str) -> str:
    """Say how an extra of vernaclip is installed: from a checkout, since no package of that name is published."""
    return f"run `pip install -e '.[{extra}]'` in the checkout of vernaclip"

"""Commands around the audit of translations by people: audit draw, audit score."""

from argparse import Namespace


def draw(options: Namespace) -> None:
    """Draw translated captions of a dataset, and write the sheet and the form on which people rate them."""
    raise NotImplementedError

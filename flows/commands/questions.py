"""The command that lists recipes."""

from argparse import Namespace

from flows.commands.output import say
from flows.recipe.recipe import recipe_names, recipe_summary
from flows.tables import plain_table


def recipes(_: Namespace) -> None:
    """List the recipes that come with vernaclip, with their first lines."""
    say(plain_table([{"recipe": name, "what it does": recipe_summary(name)} for name in recipe_names()]))

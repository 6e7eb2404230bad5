"""What to tell users whose language pack lacks a code that an engine needs: where it belongs, and how that is named."""

from data_catalog.language_pack import LanguagePack


def in_pack_of(pack: LanguagePack) -> str:
    """The place of a language's codes, for messages that say "set iso639_3" or the like before it."""
    file = f"{pack.code}.toml"
    return (
        f'in the language pack {file} (write it, or copy ours, and name it: language_packs = ["{file}"] in the '
        f"recipe, --language-pack {file} for `vernaclip translate`)"
    )

"""The command tower install, which puts a text tower into a photo application."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from data_catalog.base.errors import SettingsError
from flows.cli.output import say


def install(
    folder: Annotated[Path | None, Parameter(name="FOLDER")] = None,
    /,
    *,
    immich: Annotated[Path | None, Parameter(metavar="CACHE")] = None,
    lap: Annotated[Path | None, Parameter(metavar="DATA")] = None,
    vision: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    undo: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Install an exported text tower in Immich or Lap, so that queries in its languages find the indexed photographs.

    Image features stay as they are, and nothing is indexed again. The text tower that was there is kept beside it. Stop
    the application first, and start it again afterwards.

    Examples:
      vernaclip export-model --model models/tower/0123456789ab --format immich --as ViT-B-32__openai --out uk-immich
      vernaclip tower install uk-immich --immich /srv/immich/model-cache
      vernaclip tower install --undo --immich /srv/immich/model-cache

    Args:
        folder: Export of a model for that application.
        immich: Folder of the models of Immich's machine-learning service.
        lap: Lap's folder of data.
        vision: Image tower to compare with, an ONNX file (default: Immich's own; Lap's is inside the program).
        undo: Put back the text tower that was there before.
    """
    from training.exports.installed import install as put
    from training.exports.installed import undo as take_out

    (app, data), *more = [(name, path) for name, path in (("immich", immich), ("lap", lap)) if path] or [("", Path())]
    if not app or more or undo == (folder is not None):
        raise SettingsError("give one of --immich and --lap, and either the FOLDER of an export or --undo")
    if undo or folder is None:
        for place in take_out(app, data):
            say(f"Undone: {place} is as it was before")
        return
    done = put(folder, app, data, image_tower=vision)
    if done.cosine is None:
        say("The image tower was not there to check: if it is not that of the teacher, searches find nothing fitting")
    else:
        say(f"The image tower fits: mean cosine {done.cosine:.4f} with the model's own on drawn pictures")
    say(f"Installed: {done.place} (undo with --undo)")

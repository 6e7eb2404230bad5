"""Find the validation pairs on which the price of a lower precision is measured."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog.catalog.roots import FEATURE_STORES
from flows.recipe.recipe import load_recipe
from flows.sentences import sentence_pairs
from training.towers.lineage import read_lineage
from training.towers.trained_models import TrainedModel, find_model

if TYPE_CHECKING:
    from training.exports.precision import Validation


def validation_of(model: Path, trained: TrainedModel | None, measure: Path | None, root: Path) -> "Validation | None":
    """Return the held-out pairs of a recipe, else the val split of the model's dataset, or None."""
    return _of_dataset(trained) if measure is None else _of_recipe(measure, root, model)


def _of_dataset(trained: TrainedModel | None) -> "Validation | None":
    """Return captions that ask for their images in the val split."""
    from training.data.features import image_features
    from training.exports.precision import Validation
    from training.scores.galleries import pairs_gallery

    paths = trained.snapshot.pair_files("val") if trained is not None else ()
    found = pairs_gallery("val", paths)
    if trained is None or not found.captions:
        return None
    what = f"captions and images of the val split of {trained.snapshot.dataset}"
    return Validation(
        queries=found.captions, owners=found.owners, gallery=lambda model: image_features(model, paths), what=what
    )


def _of_recipe(recipe_file: Path, root: Path, model: Path) -> "Validation":
    """Return held-out translations that ask for the features which the teacher gives their sources."""
    from training.data.features import FeatureStore
    from training.distil.teacher import open_teacher
    from training.exports.precision import Validation

    recipe, lesson = load_recipe(str(recipe_file), root=root), read_lineage(model).settings.get("distil", {})
    # The command line may have overridden the recipe: a pair that the model learned from measures nothing.
    decisive = {name: lesson[name] for name in ("num_held_out", "check_languages") if name in lesson}
    recipe = replace(recipe, distil=replace(recipe.distil, **decisive))
    pairs = [pair for each in sentence_pairs(recipe, None).lessons for pair in each.held_out]
    places = {text: place for place, text in enumerate(dict.fromkeys(source for source, _ in pairs))}
    teacher, _ = open_teacher(find_model(recipe.distil.teacher, root))
    store = FeatureStore(teacher, root / FEATURE_STORES)
    return Validation(
        queries=[target for _, target in pairs],
        owners=[places[source] for source, _ in pairs],
        gallery=lambda _: store.texts(list(places)),
        what="held-out sentence pairs, whose sources the teacher read",
    )

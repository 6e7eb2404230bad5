"""Export the text tower alone, as a photo application loads one; the image features that it has stored stay."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from data_catalog.disk.files import write_json
from training.exports.apps import MARK_FILE, App, app_tokenizer, context_of, encode_texts, probe_pictures
from training.exports.hugging_face import write_tokenizer
from training.exports.onnx_graphs import Tower, metadata_of, write_graph
from training.exports.trained_folder import TEXTS, Encoded, TrainedFolder
from training.towers.tokenizer import load_tokenizer


class _FilledTower(nn.Module):
    """A text tower from int32 ids, filled up to an application's context, to unit features.

    Of a longer context it reads its own: the end token takes the place of the last token, as in a text that was cut.
    """

    def __init__(self, trained: TrainedFolder) -> None:
        super().__init__()
        module, tokenizer = trained.loaded.module, trained.loaded.tokenizer
        self.text, self.encode, self.length = module.text, module.encode_text, tokenizer.context_length
        (last,) = tokenizer(["a " * 2 * self.length])[:, -1].tolist()
        inner = tokenizer.inner.tokenizer
        self.end, self.pad = last if last in inner.all_special_ids else None, inner.pad_token_id

    def forward(self, ids: Tensor) -> Tensor:
        ids, is_longer = ids.long(), ids.shape[1] > self.length
        ids = ids[:, : self.length]
        if is_longer and self.end is not None:
            last = ids[:, -1:]
            ids = torch.cat([ids[:, :-1], torch.where(last == self.pad, last, self.end)], dim=1)
        return self.encode(ids, normalize=True)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class AppFormat:
    """The text tower of an application as a format of model exports (`trained_folder.Format`)."""

    app: App
    name: str  # by which the application knows the model

    def why_not(self, _model_config: Mapping[str, Any], _encoder: Any, /) -> None:
        """Accept every architecture."""

    def cut(self, trained: TrainedFolder) -> TrainedFolder:
        """Return the model with no more context than the application's."""
        context, own = context_of(self.app, self.name), trained.loaded.tokenizer.context_length
        if context is None or own <= context:
            return trained
        tokenizer = load_tokenizer(trained.folder, context_length=context)
        return replace(trained, loaded=replace(trained.loaded, tokenizer=tokenizer))

    def write(self, trained: TrainedFolder, folder: Path, _hub_name: str | None, /) -> None:
        """Write the graph and the tokenizer."""
        place, context, tokenizer = folder / self.app.folder, context_of(self.app, self.name), trained.loaded.tokenizer
        place.mkdir()
        if context is None:
            length = torch.export.Dim("length", min=2, max=tokenizer.context_length)
            axes = {0: torch.export.Dim("batch"), 1: length}
            module = trained.loaded.module
            tower: nn.Module = Tower(module.text, module.encode_text)
            ids = tokenizer(TEXTS)[:, : tokenizer.context_length - 1]
        else:
            tower, ids, axes = _FilledTower(trained), torch.zeros((1, context), dtype=torch.int32), {}
        inputs = {self.app.input: (ids, axes)}
        write_graph(tower, inputs, place / self.app.graph, metadata_of(trained), output=self.app.output)
        write_tokenizer(trained, place, {})

    def text_graph(self, folder: Path) -> tuple[Path, Tokenizer]:
        """Return the graph of the text tower, and its tokenizer as the application uses it."""
        place = folder / self.app.folder
        return place / self.app.graph, app_tokenizer(place, context_of(self.app, self.name))

    def encode(self, folder: Path, _pixels: Tensor, /) -> Encoded:
        """Encode `TEXTS` as the application does."""
        graph, tokenizer = self.text_graph(folder)
        ids = [text.ids for text in app_tokenizer(folder / self.app.folder, None).encode_batch(list(TEXTS))]
        return Encoded(ids, None, encode_texts(graph, tokenizer, TEXTS))

    def write_mark(self, trained: TrainedFolder, folder: Path) -> None:
        """Write which model it is, and the features of the probe, by which an installation is checked."""
        graph, tokenizer = self.text_graph(folder)
        preprocessing, module = trained.loaded.preprocessing, trained.loaded.module
        pixels = torch.from_numpy(probe_pictures(preprocessing.size))
        images = module.encode_image(preprocessing.normalised(pixels), normalize=True)
        features = encode_texts(graph, tokenizer, TEXTS[:2])
        mark = {
            "name": self.name,
            "model_sha256": trained.loaded.sha256,
            "image_size": preprocessing.size,
            "images": images.tolist(),
            "texts": dict(zip(TEXTS, features.tolist(), strict=False)),
        }
        write_json(folder / self.app.folder / MARK_FILE, mark)

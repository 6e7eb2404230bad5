"""Open a model with transformers that has no class of its own there. Exports contain this file, and run it.

transformers runs it only with `trust_remote_code=True`. It needs open_clip (`pip install open_clip_torch`).
"""

from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput

from .modules import make_module


class VernaclipConfig(PretrainedConfig):  # type: ignore[misc]
    """Architecture of a model.

    Args:
        model_cfg: the open_clip model config.
        encoder: config of the Hugging Face encoder that is the text tower, or None.
    """

    model_type = "vernaclip"

    def __init__(
        self, model_cfg: dict[str, Any] | None = None, encoder: dict[str, Any] | None = None, **more: Any
    ) -> None:
        self.model_cfg, self.encoder = model_cfg, encoder
        super().__init__(**more)


class VernaclipModel(PreTrainedModel):  # type: ignore[misc]
    """An image tower and a text tower with features in one space."""

    config_class = VernaclipConfig
    main_input_name = "pixel_values"

    def __init__(self, config: VernaclipConfig) -> None:
        super().__init__(config)
        encoder = AutoConfig.for_model(**config.encoder) if config.encoder else None
        with torch.device("cpu"):  # transformers makes models without values, which not every tower permits
            self.clip = make_module(config.model_cfg or {}, encoder)
        for module in self.clip.modules():  # transformers would not restore buffers that are not in the file
            module._non_persistent_buffers_set.clear()
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """Keep the weights that a tower begins with."""

    def get_image_features(self, pixel_values: torch.Tensor, **_more: Any) -> BaseModelOutputWithPooling:
        """Return features as `pooler_output`, of shape (images, dim).

        Args:
            pixel_values: normalised images, float32, shape (images, 3, size, size).
        """
        return BaseModelOutputWithPooling(pooler_output=self.clip.encode_image(pixel_values))

    def get_text_features(self, input_ids: torch.Tensor, **_more: Any) -> BaseModelOutputWithPooling:
        """Return features as `pooler_output`, of shape (texts, dim).

        Args:
            input_ids: token ids, int64, shape (texts, length), padded.
        """
        return BaseModelOutputWithPooling(pooler_output=self.clip.encode_text(input_ids))

    def forward(
        self, input_ids: torch.Tensor | None = None, pixel_values: torch.Tensor | None = None, **_more: Any
    ) -> CLIPOutput:
        """Return unit features of images and texts, as far as they are given, and their logits if both are."""
        images = None if pixel_values is None else self.clip.encode_image(pixel_values, normalize=True)
        texts = None if input_ids is None else self.clip.encode_text(input_ids, normalize=True)
        found = CLIPOutput(image_embeds=images, text_embeds=texts)
        if images is not None and texts is not None:
            found.logits_per_image = self.clip.logit_scale.exp() * images @ texts.T
            if self.clip.logit_bias is not None:
                found.logits_per_image = found.logits_per_image + self.clip.logit_bias
            found.logits_per_text = found.logits_per_image.T
        return found

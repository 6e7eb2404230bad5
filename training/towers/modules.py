"""Make models of open_clip, also with encoders of transformers as text towers that open_clip does not know."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from open_clip.hf_configs import arch_dict
from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, HFTextEncoder, MeanPooler
from open_clip.model import CLIPTextCfg, CustomTextCLIP
from torch import nn

MAX_POOLER, OWN_POOLER = "max_pooler", "cls_pooler"


class _MaxPooler(nn.Module):
    """Take the maximum over a text's tokens. open_clip's own raises an error for every text."""

    def forward(self, found: Any, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = found.last_hidden_state
        return hidden.masked_fill(attention_mask.unsqueeze(-1) == 0, -torch.inf).amax(dim=1)


_POOLERS = {
    "mean_pooler": MeanPooler,
    MAX_POOLER: _MaxPooler,
    OWN_POOLER: ClsPooler,
    "cls_last_hidden_state_pooler": ClsLastHiddenStatePooler,
}


def make_module(model_config: Mapping[str, Any], folder: Path) -> CustomTextCLIP:
    """Make a model with random weights; its text tower may be the Hugging Face encoder whose config a folder has.

    open_clip's own text tower is changed to accept ids shorter than the context length: open_clip shortens the
    positions to fit, but not the attention mask.
    """
    settings = {name: value for name, value in model_config.items() if name != "custom_text"}
    text = CLIPTextCfg(**settings["text_cfg"])
    if text.hf_model_name is None:
        module = CustomTextCLIP(**settings)
        module.text.transformer.register_forward_pre_hook(_fit_mask, with_kwargs=True)
    elif open_clip_has((encoder := read_encoder_config(folder)).model_type, text.hf_pooler_type):
        named = {"hf_model_name": str(folder), "hf_model_pretrained": False}
        module = CustomTextCLIP(**settings | {"text_cfg": settings["text_cfg"] | named})
    else:
        module = CustomTextCLIP(**settings | {"text_cfg": {"layers": 1, "width": 64, "vocab_size": 1}})
        module.text = AnyTextEncoder(encoder, text, settings["embed_dim"])
    _fit_head(module)
    return module


def _fit_mask(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    length = args[0].shape[1]
    return args, {**kwargs, "attn_mask": kwargs["attn_mask"][:length, :length]}


def _fit_head(module: Any) -> None:
    """Give the head of a timm tower as many inputs as its backbone has outputs."""
    # open_clip takes the channels before pooling. Some backbones, such as MobileNetV3, have a wider layer after it.
    trunk: Any = getattr(module.visual, "trunk", None)
    width: Any = getattr(trunk, "head_hidden_size", None)
    for parent in module.visual.head.modules() if width else ():
        for name, part in parent.named_children():
            if isinstance(part, nn.Linear):
                if part.in_features == trunk.num_features != width:
                    setattr(parent, name, nn.Linear(width, part.out_features, bias=part.bias is not None))
                return


class AnyTextEncoder(HFTextEncoder):  # type: ignore[misc]
    """A text tower of any encoder, which computes and names its weights as open_clip's does for the types it knows."""

    def __init__(self, config: Any, settings: CLIPTextCfg, output_dim: int) -> None:
        nn.Module.__init__(self)
        pooler, projection, width = settings.hf_pooler_type, settings.hf_proj_type, config.hidden_size
        self.config, self.output_dim, self.output_tokens = config, output_dim, False
        self.vocab_size, self.context_length = config.vocab_size, getattr(config, "max_position_embeddings", 0)
        whole = transformers.AutoModel.from_config(config, **pooling(config, pooled=pooler == OWN_POOLER))
        self.transformer = whole.get_encoder() if config.is_encoder_decoder else whole
        # Without a pooler, open_clip takes the first token: for the types that it knows, models were so trained.
        has_pooler = getattr(self.transformer, "pooler", None) is not None or config.model_type in arch_dict
        if pooler == OWN_POOLER and not has_pooler:
            raise ValueError(
                f"encoders of the type {config.model_type!r} have no pooler of their own, which cls_pooler takes: set "
                "train.text_pooler to mean_pooler, or to cls_last_hidden_state_pooler for the first token"
            )
        self.pooler = _POOLERS[pooler]()
        self.proj: nn.Module = nn.Identity()
        if projection == "mlp":
            hidden = (width + output_dim) // 2
            layers = nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, output_dim, bias=False)
            self.proj = nn.Sequential(*layers)
        elif projection == "linear":
            self.proj = nn.Linear(width, output_dim, bias=False)


def read_encoder_config(source: str | Path) -> Any:
    """Return the config of an encoder from a folder or the hub, unless it is one of a decoder."""
    config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    if type(config)().is_encoder_decoder:  # encoders that were published without their decoder deny it
        config.is_encoder_decoder = True
    generates = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    encodes = config.is_encoder_decoder or type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    if (generates and not encodes) or getattr(config, "is_decoder", False):
        raise ValueError(
            f"models of the type {config.model_type!r} are decoders, whose tokens do not see those after them: name an "
            "encoder such as BERT"
        )
    return config


def open_clip_has(kind: str, pooler: str) -> bool:
    """Return whether open_clip's own text tower can be made of encoders of a type, with that pooler."""
    return kind in arch_dict and pooler != MAX_POOLER


def pooling(config: Any, *, pooled: bool) -> dict[str, bool]:
    """Return the argument by which transformers makes an encoder with or without its pooler; {} if it has none."""
    model = transformers.MODEL_MAPPING[type(config)]
    model = model[0] if isinstance(model, tuple) else model  # one type has two classes, neither with a pooler
    known = "add_pooling_layer" in inspect.signature(model.__init__).parameters
    return {"add_pooling_layer": pooled} if known else {}

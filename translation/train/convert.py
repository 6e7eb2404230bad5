"""The trained network as a CTranslate2 model folder, through CTranslate2's own specification classes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from translation.train.vocabulary import END, START, UNKNOWN

if TYPE_CHECKING:
    from translation.train.model import TranslationModel


def save_ctranslate2(model: "TranslationModel", pieces: list[str], folder: Path, *, quantization: str | None) -> None:
    """Write `model` to `folder`, which must exist.

    Args:
        pieces: the vocabulary, in the order of the embedding's rows.
        quantization: "int8" stores a quarter of the bytes; None keeps float32.
    """
    from ctranslate2.specs import TransformerSpec

    from translation.train.model import LAYER_NORM_EPSILON

    shape = model.shape
    layers = (shape.num_encoder_layers, shape.num_decoder_layers)
    spec = TransformerSpec.from_config(layers, shape.num_heads, pre_norm=True)
    spec.config.layer_norm_epsilon = LAYER_NORM_EPSILON
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = UNKNOWN, START, END
    spec.config.decoder_start_token = START
    _fill_encoder(spec.encoder, model)
    _fill_decoder(spec.decoder, model)
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))


def _fill_encoder(spec: Any, model: "TranslationModel") -> None:
    spec.embeddings[0].weight = _array(model.embedding.weight)
    _fill_norm(spec.layer_norm, model.encoder_norm)
    for layer_spec, layer in zip(spec.layer, model.encoder, strict=True):
        _fill_attention(layer_spec.self_attention, layer.self_attention)
        _fill_ffn(layer_spec.ffn, layer.ffn)


def _fill_decoder(spec: Any, model: "TranslationModel") -> None:
    spec.embeddings.weight = _array(model.embedding.weight)
    spec.projection.weight = _array(model.embedding.weight)
    spec.projection.bias = _array(model.output_bias)
    _fill_norm(spec.layer_norm, model.decoder_norm)
    for layer_spec, layer in zip(spec.layer, model.decoder, strict=True):
        _fill_attention(layer_spec.self_attention, layer.self_attention)
        _fill_attention(layer_spec.attention, layer.attention)
        _fill_ffn(layer_spec.ffn, layer.ffn)


def _fill_attention(spec: Any, attention: Any) -> None:
    linears = [attention.fused, attention.output]
    if attention.query is not None:
        linears.insert(0, attention.query)
    _fill_norm(spec.layer_norm, attention.layer_norm)
    for linear_spec, linear in zip(spec.linear, linears, strict=True):
        _fill_linear(linear_spec, linear)


def _fill_ffn(spec: Any, ffn: Any) -> None:
    _fill_norm(spec.layer_norm, ffn.layer_norm)
    _fill_linear(spec.linear_0, ffn.inner)
    _fill_linear(spec.linear_1, ffn.outer)


def _fill_linear(spec: Any, linear: Any) -> None:
    spec.weight = _array(linear.weight)
    spec.bias = _array(linear.bias)


def _fill_norm(spec: Any, norm: Any) -> None:
    spec.gamma = _array(norm.weight)
    spec.beta = _array(norm.bias)


def _array(parameter: Any) -> Any:
    # A copy: CTranslate2 quantizes in place, and the network may be trained further.
    return parameter.detach().numpy().copy()

"""Exports of trained models: as open_clip, transformers and ONNX read them, each with a model card."""

"""Exports of trained models to open_clip, transformers and ONNX, each with a model card."""

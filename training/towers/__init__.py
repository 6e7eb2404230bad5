"""Models: their configs, files, pretrained weights and tokenizers."""

"""Decoders and encoders run by PyTorch: label scoring in one forward pass, LoRA adapters on a shared base."""

"""What one decision of a decoder costs on this machine's GPU, beside the least it could: ``python -m perf.gpu``."""

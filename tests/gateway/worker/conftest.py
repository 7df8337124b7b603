"""Models that several files of this folder ask, made once a file."""

from importlib.util import find_spec

if find_spec("torch"):
    from tests.gateway.worker.bases import base, bases, decoder, qwen  # noqa: F401

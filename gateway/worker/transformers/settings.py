"""``manifest.engine`` of a bundle that PyTorch runs."""

from dataclasses import dataclass
from typing import Any

from gateway.worker.transformers.loading import DECODER, ENCODER
from gateway.worker.transformers.resident import LAYOUTS, POOLS
from protos.contract.fields import Reader


@dataclass(frozen=True, slots=True)
class Settings:
    """``manifest.engine`` of a bundle for this backend.

    Attributes:
        head: ``rows`` multiplies by the labels' rows of the output head only; ``full`` by all of it, which
            gives the vocabulary's mass too.
        merged: Add the adapter to a private copy of the base instead of sharing one.
        pool: Which vector of an encoder's the classifier reads.
    """

    kind: str
    device: str
    dtype: str
    head: str
    layout: str
    overlong: str
    pool: str
    merged: bool
    has_prefix_cache: bool
    has_graphs: bool
    verbalizers: dict[str, Any]
    generate: dict[str, Any]

    @classmethod
    def read(cls, engine: Any) -> "Settings":
        """Read and check; raises FieldInvalid."""
        read = Reader(engine, "manifest.engine")
        read.text("backend")
        found = cls(
            kind=read.text("kind", DECODER, choices=(DECODER, ENCODER)),
            device=read.text("device", "auto", choices=("auto", "cpu", "cuda")),
            dtype=read.text("dtype", "auto", choices=("auto", "f32", "bf16", "fp8")),
            head=read.text("head", "rows", choices=("rows", "full")),
            layout=read.text("layout", "auto", choices=LAYOUTS),
            overlong=read.text("overlong", "cut", choices=("cut", "refuse")),
            pool=read.text("pool", "mean", choices=POOLS),
            merged=read.flag("merged", False),
            has_prefix_cache=read.flag("prefix_cache", True),
            has_graphs=read.flag("cuda_graphs", True),
            verbalizers=read.object("verbalizers", {}),
            generate=read.object("generate", {}),
        )
        read.done()
        return found

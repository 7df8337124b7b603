"""What a training was made of and by: enough to do it again, and to see why a repeat differs."""

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "openvino", "numpy", "scikit-learn")
_PACKAGES = ("controlplane", "protos")
_ROOT = Path(__file__).parents[2]


def code_digest() -> str:
    """Name the code by its files' names and bytes: true of a checkout and of an installed package alike."""
    found = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            found.update(f"{path.relative_to(_ROOT)}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return "sha256:" + found.hexdigest()


def provenance() -> dict[str, Any]:
    """Describe code, libraries and machine."""
    return {
        "code": code_digest(),
        "version": _version("interlock"),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")

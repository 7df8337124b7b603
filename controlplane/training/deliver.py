"""Copy one bundle to the store that others fetch from, as a child process: ``… -m controlplane.training.deliver``."""

import sys
from pathlib import Path
from typing import Any

from controlplane.store.delivery import copy_bundle
from controlplane.training.child import Child, config_from_arguments, run_child
from protos.contract.bundle import BundleStore
from protos.contract.digest import parse_digest
from protos.contract.fields import Reader
from protos.contract.url_store import open_store


def run(value: Any, child: Child) -> dict[str, Any]:
    """Do what the configuration is for."""
    read = Reader(value, "config")
    digest = parse_digest(read.text("bundle"), "config.bundle")
    there, to = BundleStore(Path(read.text("bundles_dir"))), read.text("to")
    read.done()
    copy_bundle(there, digest, open_store(to), lambda what: child.progress(0.5, f"copying {what}"))
    return {"bundle": digest, "to": to}


if __name__ == "__main__":
    sys.exit(run_child(run, config_from_arguments("controlplane.training.deliver")))

"""Run one engine worker: ``python -m gateway.worker --socket PATH --bundles DIRECTORY``."""

import sys

from gateway import compiled

if __name__ == "__main__":
    compiled.use()  # before any of what it replaces is imported

    from gateway.worker.process import main

    sys.exit(main())

"""Run one engine worker: ``python -m gateway.worker --socket PATH --bundles DIRECTORY``."""

import sys

from gateway.worker.process import main

if __name__ == "__main__":
    sys.exit(main())

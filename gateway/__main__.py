"""Run one gateway: ``python -m gateway --config FILE``."""

from gateway.process import main

if __name__ == "__main__":
    main()

"""Run one gateway: ``python -m gateway --config FILE``."""

from gateway import compiled

if __name__ == "__main__":
    compiled.use()  # before any of what it replaces is imported

    from gateway.process import main

    main()

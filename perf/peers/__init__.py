"""Other servers answering the same call, each in an environment of its own under ``var/peers``."""

"""Settings of every test."""

import os

from hypothesis import settings

# Where a failure stops a landing the examples are the same each time; a person's runs go on looking for new ones.
settings.register_profile("steady", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("steady")

"""Statistics that say whether traffic has changed: one file each, pure arithmetic."""


class TooFewSamples(ValueError):
    """A window holds too little for an answer that means anything."""

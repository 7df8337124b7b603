"""Errors."""


class RequestError(RuntimeError):
    """This request failed; the engine goes on."""

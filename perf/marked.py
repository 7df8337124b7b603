"""Text between two marks, such as a table of results in a README."""

from pathlib import Path


def spliced(text: str, begin: str, end: str, inner: str) -> str:
    """Return a text with what stands between its marks replaced; raises ValueError where they are missing."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not rest or not after:
        raise ValueError(f"the text lacks {begin!r} or {end!r}")
    return f"{before}{begin}\n{inner}\n{end}{after}"


def replace_marked(path: Path, begin: str, end: str, inner: str) -> None:
    """Do so in a file."""
    path.write_text(spliced(path.read_text("utf-8"), begin, end, inner), "utf-8")

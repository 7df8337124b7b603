"""What servers that tell tokens by their text call those of the labels."""

from collections.abc import Mapping

from gateway.engines.ports import Served
from gateway.serving.ports import BundleRefused


def spellings(served: Served) -> Mapping[str, int]:
    """Return the texts under which labels' tokens are told; takes half a second for a large vocabulary.

    A tokenizer may drop the space in front, so either text counts.

    Raises:
        BundleRefused: Another token is written alike, so that its log-probability could be taken for the label's.
    """
    names = dict(zip(served.answers, served.answer_ids, strict=True))
    if served.decode is None:
        return names
    names |= {served.decode([id]): id for id in served.answer_ids}
    for id in {*range(served.vocabulary), *served.answer_ids}:
        text = served.decode([id])
        if names.get(text, id) != id:
            raise BundleRefused(
                f"tokens {names[text]} and {id} are both told as {text!r}, expected labels that no other token is "
                "written like, or a server that tells tokens by number"
            )
    return names

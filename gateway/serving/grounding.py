"""Statements of a text that is being written, each with its place in the input or flagged."""

from gateway.domain.json_texts import JsonTexts
from gateway.errors import PromptRejected
from protos import decide_pb2
from protos.contract.grounding import Source


class Grounding:
    """Holds what is written against what the input says."""

    def __init__(self, said: str) -> None:
        self._source = Source(said)
        self._texts = JsonTexts()

    @classmethod
    def of(cls, request: decide_pb2.GenerateRequest) -> "Grounding | None":
        """Return what a request asks for, None where it asks for nothing; raises PromptRejected."""
        if not request.HasField("grounding"):
            return None
        if request.constraint.WhichOneof("kind") != "json_schema":
            raise PromptRejected("grounding needs texts to be told apart, expected a constraint json_schema")
        field, given = request.grounding.field, request.input
        if not field and given.text:
            return cls(given.text)
        texts = [name for name, value in given.fields.items() if value.WhichOneof("kind") == "text"]
        if field not in texts:
            there = ", ".join(sorted(texts)) or "it has none"
            raise PromptRejected(f"grounding.field is {field!r}, expected a text of the input: {there}")
        return cls(given.fields[field].text)

    def of_chunk(self, text: str, *, is_last: bool) -> list[decide_pb2.Statement]:
        """Return the statements that are complete with a chunk."""
        found = self._texts.feed(text)
        if is_last:
            found += self._texts.end()
        return [self._statement(key, said) for key, said in found]

    def _statement(self, key: str, text: str) -> decide_pb2.Statement:
        place = self._source.place(text)
        if place is None:
            return decide_pb2.Statement(key=key, text=text)
        return decide_pb2.Statement(key=key, text=text, grounded=True, start=place[0], end=place[1])

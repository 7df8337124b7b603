"""What inputs are named by."""

from hypothesis import example, given
from hypothesis import strategies as st

from protos import decide_pb2
from protos.contract.digest import digest_json, input_digest
from protos.contract.given import Given


@given(st.text())
@example("".join(map(chr, range(0x100))) + "\u2028\ud7ff\ue000\U0001f98a/")
def test_a_text_alone_is_named_by_its_canonical_bytes_as_any_input(text: str) -> None:
    expected = digest_json({"text": text, "fields": {}})
    assert input_digest(Given.of_text(text)) == input_digest(decide_pb2.Input(text=text)) == expected

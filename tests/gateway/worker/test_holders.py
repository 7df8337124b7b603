"""Which bundle makes room: never one that any gateway's plan needs."""

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.worker.holders import Holders

STEPS = st.lists(
    st.tuples(st.sampled_from(["need", "preload", "release", "leave"]), st.sampled_from("abc"), st.sampled_from("xy"))
)


@given(STEPS)
@example([("preload", "a", "y"), ("preload", "b", "x"), ("preload", "a", "x"), ("release", "a", "x")])
def test_what_some_plan_needs_is_never_offered_as_room(steps: list[tuple[str, str, str]]) -> None:
    holders: Holders[str] = Holders()
    needs: set[tuple[str, str]] = set()
    wishes: list[tuple[str, str]] = []  # as they were said last
    for verb, bundle, who in steps:
        if verb == "leave":
            holders.leave(who)
            needs = {pair for pair in needs if pair[1] != who}
            wishes = [pair for pair in wishes if pair[1] != who]
            continue
        needs.discard((bundle, who))
        wishes = [pair for pair in wishes if pair != (bundle, who)]
        if verb == "release":
            still = holders.release(bundle, who)
            assert still == any(pair[0] == bundle for pair in [*needs, *wishes])
            continue
        holders.hold(bundle, who, is_preload=verb == "preload")
        if verb == "need":
            needs.add((bundle, who))
        else:
            wishes.append((bundle, who))
    needed = {bundle for bundle, _ in needs}
    latest = {bundle: i for i, (bundle, _) in enumerate(wishes)}
    assert holders.preloads() == [bundle for bundle in sorted(latest, key=latest.__getitem__) if bundle not in needed]
    assert all(holders.is_preload(bundle) == (bundle in holders.preloads()) for bundle in "abc")

"""Our tree is RFC 6962's: against its recursive definition and the Certificate Transparency vectors."""

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.contract.merkle import (
    EMPTY_ROOT,
    complete_subtrees,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    is_included,
    leaf_hash,
    node_hash,
    root_of,
    subtree_root_of,
)

# The entries and roots that Certificate Transparency's own tests use.
CT_ENTRIES = [
    bytes.fromhex(h)
    for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(b"%d" % i) for i in range(201)]


def recursive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return node_hash(recursive_root(leaves[:k]), recursive_root(leaves[k:]))


def recursive_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m < k:
        return [*recursive_path(m, leaves[:k]), recursive_root(leaves[k:])]
    return [*recursive_path(m - k, leaves[k:]), recursive_root(leaves[:k])]


def recursive_proof(m: int, leaves: Sequence[bytes], is_whole: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 6962 section 2.1.2."""
    if m == len(leaves):
        return [] if is_whole else [recursive_root(leaves)]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m <= k:
        return [*recursive_proof(m, leaves[:k], is_whole), recursive_root(leaves[k:])]
    return [*recursive_proof(m - k, leaves[k:], False), recursive_root(leaves[:k])]


def test_the_empty_tree_hashes_nothing() -> None:
    assert root_of([]) == EMPTY_ROOT
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert root_of([leaf_hash(entry) for entry in CT_ENTRIES[:size]]).hex() == CT_ROOTS[size - 1]


@pytest.mark.parametrize("size", range(201))
def test_the_root_is_the_recursive_one(size: int) -> None:
    assert root_of(LEAVES[:size]) == recursive_root(LEAVES[:size])


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 200).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))), st.data())
def test_an_inclusion_proof_shows_its_leaf_and_no_other(case: tuple[int, int], data: st.DataObject) -> None:
    size, index = case
    leaves = LEAVES[:size]
    root = root_of(leaves)
    proof = inclusion_proof(index, size, subtree_root_of(leaves))
    assert proof == recursive_path(index, leaves)
    assert is_included(leaves[index], index, size, proof, root)
    assert not is_included(leaf_hash(b"other"), index, size, proof, root)
    assert not is_included(leaves[index], index, size, [*proof, root], root)
    assert not is_included(leaves[index], size, size, proof, root)
    elsewhere = data.draw(st.integers(0, size - 1))
    if elsewhere != index:
        assert not is_included(leaves[index], elsewhere, size, proof, root)
    if proof:
        assert not is_included(leaves[index], index, size, proof[:-1], root)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 200).flatmap(lambda new: st.tuples(st.integers(1, new), st.just(new))))
def test_a_consistency_proof_shows_a_prefix_and_no_rewrite(sizes: tuple[int, int]) -> None:
    old, new = sizes
    leaves = LEAVES[:new]
    old_root, new_root = root_of(leaves[:old]), root_of(leaves)
    proof = consistency_proof(old, new, subtree_root_of(leaves))
    assert proof == recursive_proof(old, leaves)
    assert is_consistent(old, old_root, new, new_root, proof)
    rewritten = [leaf_hash(b"rewritten"), *leaves[1:]]
    forged = consistency_proof(old, new, subtree_root_of(rewritten))
    assert not is_consistent(old, old_root, new, root_of(rewritten), forged)
    assert not is_consistent(old, old_root, new, new_root, [*proof, new_root])
    if proof:
        assert not is_consistent(old, old_root, new, new_root, proof[:-1])


def test_the_empty_tree_is_a_prefix_of_every_tree_and_nothing_shrinks() -> None:
    assert is_consistent(0, EMPTY_ROOT, 3, root_of(LEAVES[:3]), [])
    assert not is_consistent(0, b"\0" * 32, 3, root_of(LEAVES[:3]), [])
    assert not is_consistent(3, root_of(LEAVES[:3]), 2, root_of(LEAVES[:2]), [])


@pytest.mark.parametrize("index, size", [(-1, 3), (3, 3), (0, 0)])
def test_no_proof_of_a_leaf_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="index"):
        inclusion_proof(index, size, subtree_root_of(LEAVES[:size]))


@pytest.mark.parametrize("old, new", [(0, 3), (4, 3)])
def test_no_consistency_proof_from_nothing_or_from_the_future(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="old_size"):
        consistency_proof(old, new, subtree_root_of(LEAVES[:new]))


def test_complete_subtrees_cover_the_leaves_once() -> None:
    for size in range(201):
        covered = [
            leaf for level, idx in complete_subtrees(0, size) for leaf in range(idx << level, (idx + 1) << level)
        ]
        assert covered == list(range(size))

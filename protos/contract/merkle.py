"""The Merkle tree over an append-only log: root, and proofs that need a logarithm of hashes.

Source: RFC 6962 section 2.1 (tree, audit paths, consistency proofs); verification follows
RFC 9162 sections 2.1.3.2 and 2.1.4.2, whose trees are the same.
"""

import hashlib
from collections.abc import Callable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()

# Answers with the root over leaves start..end, end excluded; start is always a multiple of the
# largest power of two the range needs, so a store can answer from complete subtrees.
SubtreeRoot = Callable[[int, int], bytes]


def leaf_hash(data: bytes) -> bytes:
    """Hash one entry. The prefix keeps a leaf from passing for an inner node."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two children, 32 bytes each."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def complete_subtrees(start: int, end: int) -> list[tuple[int, int]]:
    """Split the leaves ``start..end`` into complete subtrees, as (level, index), largest first.

    ``start`` must be a multiple of the smallest power of two that is not below ``end - start``.
    """
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append((level, start >> level))
        start += 1 << level
    return found


def fold(hashes: Sequence[bytes]) -> bytes:
    """Return the root over complete subtrees, largest first."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the tree hash over leaf hashes, shape [size] of 32 bytes."""
    stack: list[tuple[int, bytes]] = []
    for leaf in leaves:
        level, node = 0, leaf
        while stack and stack[-1][0] == level:
            node = node_hash(stack.pop()[1], node)
            level += 1
        stack.append((level, node))
    return fold([node for _, node in stack])


def _check_sizes(low: int, value: int, high: int, what: str) -> None:
    if not low <= value <= high:
        raise ValueError(f"{what} is {value}, expected {low} to {high}")


def _split(size: int) -> int:
    """Return the largest power of two below ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(index: int, size: int, subtree_root: SubtreeRoot) -> list[bytes]:
    """Prove that leaf ``index`` is in the tree of ``size`` leaves; hashes from the leaf upwards."""
    _check_sizes(0, index, size - 1, "index")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(subtree_root(middle, end))
            end = middle
        else:
            proof.append(subtree_root(start, middle))
            start = middle
    return proof[::-1]


def consistency_proof(old_size: int, new_size: int, subtree_root: SubtreeRoot) -> list[bytes]:
    """Prove that the tree of ``old_size`` leaves is a prefix of the one of ``new_size``."""
    _check_sizes(1, old_size, new_size, "old_size")
    proof: list[bytes] = []
    start, end = 0, new_size
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            proof.append(subtree_root(middle, end))
            end = middle
        else:
            proof.append(subtree_root(start, middle))
            start = middle
    if start > 0:  # The verifier knows the old root already when it is a subtree of the new tree.
        proof.append(subtree_root(start, end))
    return proof[::-1]


def subtree_root_of(leaves: Sequence[bytes]) -> SubtreeRoot:
    """Answer subtree roots from leaf hashes held in memory."""
    return lambda start, end: root_of(leaves[start:end])


def is_included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Say whether ``proof`` shows the leaf hash at ``index`` under ``root``."""
    if not 0 <= index < size:
        return False
    place, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            node = node_hash(sibling, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and node == root


def is_consistent(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether ``proof`` shows the old tree to be a prefix of the new one.

    The empty tree is a prefix of every tree, and needs an empty proof and ``EMPTY_ROOT``.
    """
    if not 0 <= old_size <= new_size:
        return False
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT and (new_size > 0 or new_root == EMPTY_ROOT)
    if old_size == new_size:
        return not proof and old_root == new_root
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root


class Trail:
    """The complete subtrees over the entries seen so far, largest first."""

    def __init__(self) -> None:
        self.size = 0
        self._stack: list[bytes] = []

    def add(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Take the next leaf and return the nodes (level, idx, hash) it completes."""
        made = [(0, self.size, leaf)]
        node, place, level = leaf, self.size, 0
        while place & 1:
            node = node_hash(self._stack.pop(), node)
            place, level = place >> 1, level + 1
            made.append((level, place, node))
        self._stack.append(node)
        self.size += 1
        return made

    def root(self) -> bytes:
        """Return the root over the leaves so far."""
        return fold(self._stack)

"""Ordered groups: one treap per group over the rows of a word matrix.

A *node* is a row id. `words` is int64[nodes, LINKS + width]: the links to the lower and the upper child, on one cache line with
the words that order the node, most significant first. `plan` says for each word what it is (WORD, or the first of a TEXT pair:
offset and length in `heap`). Ties go to the lower id, so the order is total. `roots` is int64[groups]; -1 is no node.
Priorities are hashes of the ids (Seidel and Aragon 1996): the shape follows from the set of nodes alone, so undoing an insertion
is removing it.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int64, types, void

from forebay.kernels.hash import i64_in, i64_out, mix, u8_in, u8_out
from forebay.kernels.jit import kernel, routine

WORD = 0
TEXT_UP = 1
TEXT_DOWN = 2
NIL = -1
LINKS = 2
MAX_DEPTH = 1024  # a treap of 10^9 nodes is deeper than 120 with probability below 10^-9

ROW_NUMBER = 0
RANK = 1
DENSE_RANK = 2

matrix = types.Array(int64, 2, "C")
matrix_in = types.Array(int64, 2, "C", readonly=True)


@routine
def priority(node):
    """A pseudo-random uint64 that belongs to the node."""
    return mix(np.uint64(node) + np.uint64(0x9E3779B97F4A7C15))


@routine
def compare_text(heap, a, a_length, b, b_length):
    """-1, 0 or 1 as heap[a:a + a_length] is less than, equal to or greater than heap[b:b + b_length], bytewise."""
    for k in range(min(a_length, b_length)):
        x, y = heap[a + k], heap[b + k]
        if x != y:
            return -1 if x < y else 1
    return 0 if a_length == b_length else (-1 if a_length < b_length else 1)


@routine
def compare(left, i, right, j, plan, heap, width):
    """The order of left[i] and right[j] by their first `width` words."""
    at = 0
    while at < width:
        x, y = left[i, LINKS + at], right[j, LINKS + at]
        if plan[at] == WORD:
            if x != y:
                return -1 if x < y else 1
            at += 1
            continue
        order = compare_text(heap, x, left[i, LINKS + at + 1], y, right[j, LINKS + at + 1])
        if order != 0:
            return order if plan[at] == TEXT_UP else -order
        at += 2
    return 0


@routine
def before(words, a, b, plan, heap):
    """Does node a come before node b?"""
    order = compare(words, a, words, b, plan, heap, plan.shape[0])
    return order < 0 or (order == 0 and a < b)


@routine
def _attach(words, roots, group, parent, side, node):
    if parent == NIL:
        roots[group] = node
    else:
        words[parent, side] = node


@routine
def insert_node(words, roots, group, node, plan, heap):
    """Add a node that is not there: descend to its priority, then split the subtree below it."""
    parent, side, t = NIL, 0, roots[group]
    rank = priority(node)
    while t != NIL and priority(t) >= rank:
        parent = t
        side = 0 if before(words, node, t, plan, heap) else 1
        t = words[t, side]
    _attach(words, roots, group, parent, side, node)
    low, low_side, high, high_side = node, 0, node, 1
    while t != NIL:
        if before(words, t, node, plan, heap):
            words[low, low_side] = t
            low, low_side = t, 1
            t = words[t, 1]
        else:
            words[high, high_side] = t
            high, high_side = t, 0
            t = words[t, 0]
    words[low, low_side] = NIL
    words[high, high_side] = NIL


@routine
def remove_node(words, roots, group, node, plan, heap):
    """Take out a node: find it, then merge its subtrees in its place. False if it is not there."""
    parent, side, t = NIL, 0, roots[group]
    while t != node:
        if t == NIL:
            return False
        parent = t
        side = 0 if before(words, node, t, plan, heap) else 1
        t = words[t, side]
    low, high = words[node, 0], words[node, 1]
    while low != NIL and high != NIL:
        if priority(low) >= priority(high):
            _attach(words, roots, group, parent, side, low)
            parent, side, low = low, 1, words[low, 1]
        else:
            _attach(words, roots, group, parent, side, high)
            parent, side, high = high, 0, words[high, 0]
    _attach(words, roots, group, parent, side, high if low == NIL else low)
    return True


@routine
def last_node(words, root):
    """The greatest node of a non-empty treap."""
    while words[root, 1] != NIL:
        root = words[root, 1]
    return root


@kernel(void(matrix, i64_out, i64_in, i64_in, i64_in, u8_in))
def insert_nodes(words, roots, groups, nodes, plan, heap):
    """Insert nodes[i] into the treap of groups[i]."""
    for i in range(nodes.shape[0]):
        insert_node(words, roots, groups[i], nodes[i], plan, heap)


@kernel(int64(matrix, i64_out, i64_in, i64_in, i64_in, u8_in))
def remove_nodes(words, roots, groups, nodes, plan, heap):
    """Remove nodes[i] from the treap of groups[i]; returns how many were there."""
    found = 0
    for i in range(nodes.shape[0]):
        if remove_node(words, roots, groups[i], nodes[i], plan, heap):
            found += 1
    return found


@kernel(void(matrix, i64_in, i64_in, boolean, i64_out))
def extremes(words, roots, groups, greatest, out):
    """out[i] = the first (or last) node of groups[i], NIL if it is empty."""
    side = 1 if greatest else 0
    for i in range(groups.shape[0]):
        t = roots[groups[i]]
        while t != NIL and words[t, side] != NIL:
            t = words[t, side]
        out[i] = t


@kernel(int64(matrix, i64_in, i64_in, int64, i64_in, matrix, int64, i64_in, u8_in, i64_out))
def promising(words, roots, sizes, limit, groups, offered, width, plan, heap, out):
    """The rows i whose first `width` words, offered[i], may be among the `limit` best of groups[i]; returns how many."""
    n = 0
    for i in range(groups.shape[0]):
        g = groups[i]
        if sizes[g] >= limit:
            if compare(offered, i, words, last_node(words, roots[g]), plan, heap, width) > 0:
                continue
        out[n] = i
        n += 1
    return n


@kernel(int64(matrix, i64_out, i64_out, int64, i64_in, matrix, i64_out, i64_out, i64_out, i64_in, u8_in))
def offer(words, roots, sizes, limit, groups, offered, free, accepted, evicted, plan, heap):
    """Offer row i, ordered by offered[i], to the `limit` best rows of groups[i], in order.

    An accepted row takes the next id of `free`: accepted[i] is that id, else NIL. evicted[i] is the id of the row that left
    for it, or NIL; one accepted here may leave again. Returns the number of ids taken.
    """
    taken = 0
    for i in range(groups.shape[0]):
        g = groups[i]
        accepted[i] = NIL
        evicted[i] = NIL
        full = sizes[g] >= limit
        if full:
            worst = last_node(words, roots[g])
            if compare(offered, i, words, worst, plan, heap, plan.shape[0]) >= 0:
                continue
            remove_node(words, roots, g, worst, plan, heap)
            evicted[i] = worst
        else:
            sizes[g] += 1
        node = free[taken]
        taken += 1
        for j in range(LINKS, words.shape[1]):
            words[node, j] = offered[i, j]
        insert_node(words, roots, g, node, plan, heap)
        accepted[i] = node
    return taken


@kernel(int64(matrix, i64_in, i64_in, matrix_in, int64, int64, int64, int64, boolean, boolean, i64_in, u8_in, matrix))
def walk(words, roots, groups, counts, width, kind, start, end, ranked, beyond, plan, heap, out):
    """The nodes of each group whose rank lies in [start, end], in order; returns how many, even past the room in `out`.

    Rows of `out` are (index into groups, node, rank, weight). Ranks compare the first `width` words; a node stands for
    counts[node, 0] equal rows, or for one if `counts` is empty. Under ROW_NUMBER these have ranks of their own: one row of
    `out` each if `ranked`, else one with the number of them in range. `beyond` gives the nodes ranked past `end` instead.
    """
    n = 0
    stack = np.empty(MAX_DEPTH, np.int64)
    for i in range(groups.shape[0]):
        depth, t = 0, roots[groups[i]]
        passed, rank, previous = 0, 0, NIL
        while t != NIL or depth > 0:
            while t != NIL:
                stack[depth] = t
                depth += 1
                t = words[t, 0]
            depth -= 1
            t = stack[depth]
            weight = counts[t, 0] if counts.shape[0] > 0 else 1
            if kind == ROW_NUMBER:
                rank = passed + 1
            elif previous == NIL or compare(words, previous, words, t, plan, heap, width) != 0:
                rank = passed + 1 if kind == RANK else rank + 1
            if rank > end and not beyond:
                break
            if beyond:
                first, last = rank, rank if rank > end else rank - 1
            elif kind == ROW_NUMBER:
                first, last = max(rank, start), min(rank + weight - 1, end)
            else:
                first, last = rank, rank if rank >= start else rank - 1
            step = 1 if ranked and kind == ROW_NUMBER else last - first + 1
            while first <= last:
                if n < out.shape[0]:
                    out[n, 0] = i
                    out[n, 1] = t
                    out[n, 2] = first
                    out[n, 3] = weight if kind != ROW_NUMBER else step
                n += 1
                first += step
            passed += weight
            previous = t
            t = words[t, 1]
    return n


@kernel(int64(matrix_in, matrix, i64_out, boolean, matrix))
def difference(old, new, position, ranked, out):
    """(node, rank, weight) of new minus old, both as `walk` gives them; returns the number of rows, zeros left out.

    `position` is int64[nodes], zeroed before and after. `out` has room for both inputs. Weights in `new` are overwritten.
    Only `ranked` rows differ by rank; the ranks of one node are consecutive rows.
    """
    n = 0
    for j in range(new.shape[0] - 1, -1, -1):
        position[new[j, 1]] = j + 1
    for i in range(old.shape[0]):
        node, rank, weight = old[i, 1], old[i, 2], old[i, 3]
        j = position[node] - 1
        if j >= 0 and ranked:
            j += rank - new[j, 2]
            if j < 0 or j >= new.shape[0] or new[j, 1] != node or new[j, 2] != rank:
                j = -1
        if j >= 0:
            new[j, 3] -= weight
            continue
        out[n, 0] = node
        out[n, 1] = rank
        out[n, 2] = -weight
        n += 1
    for j in range(new.shape[0]):
        position[new[j, 1]] = 0
        if new[j, 3] != 0:
            out[n, 0] = new[j, 1]
            out[n, 1] = new[j, 2]
            out[n, 2] = new[j, 3]
            n += 1
    return n


@kernel(int64(matrix, i64_in, int64, u8_in, u8_out, int64))
def move_text(words, nodes, at, heap, out, size):
    """Copy the texts that columns `at` and `at + 1` of the nodes name to out[size:], repoint them; returns the new size."""
    for i in range(nodes.shape[0]):
        node = nodes[i]
        start, length = words[node, at], words[node, at + 1]
        for k in range(length):
            out[size + k] = heap[start + k]
        words[node, at] = size
        size += length
    return size

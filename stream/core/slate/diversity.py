"""Diversity of a list: maximal marginal relevance over sketches of what the catalogue says. Pure.

**MMR** (Carbonell and Goldstein, SIGIR 1998). A list S is filled one by one with the candidate of greatest

    (1 − d) · score(j) / best score − d · max over i in S of cos⁺(i, j)

d is the knob: 0 leaves the order of the scores, 1 looks at nothing else than differences. Ties go to the
candidate that stood before.

**Sketch.** The cosine of 60 candidates with each other by sparse tokens would cost more than the ranking
itself. So each item's token vector, its category and its group (as further tokens, of weight 1/2) are
hashed with a sign into 64 numbers, made of length 1 (Weinberger et al., "Feature hashing for large scale
multitask learning", ICML 2009): the same tokens give 1, all else an estimate of the cosine without bias, its
standard error about 1/8 where no token dominates. Coordinates are whole 127ths: products are sums of whole
numbers below 2^24, which float32 adds exactly, so the choice is the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream.core.slate.facts import F32, I32, I64, U64, Bool, Facts, mix

I8 = NDArray[np.int8]

DIMENSIONS = 64
_ONE = 127
_SAME = 0.5
_CHUNK = 64  # users at a time: their cosines stay in cache


def sketches(facts: Facts, items: I32 | I64) -> I8:
    """Sketches of items [m], of length 127: [m, 64]; 0 for an item of which nothing is known."""
    of_tokens = facts.token_hashes.astype(np.uint64)
    weights = np.maximum(facts.token_weights[items], 0)
    tokens = facts.tokens[items].clip(0, max(len(of_tokens) - 1, 0))
    hashes = of_tokens[tokens] if len(of_tokens) else np.zeros(tokens.shape, dtype=np.uint64)
    kinds = [facts.category[items], facts.group[items]]
    same = np.stack([np.where(kind > 0, _SAME, 0.0) for kind in kinds], axis=1)
    hashes = np.concatenate([hashes, np.stack(kinds, axis=1)], axis=1)
    return _hashed(hashes, np.concatenate([weights, same], axis=1))


def _hashed(hashes: U64, weights: NDArray[np.floating]) -> I8:
    """Feature hashing of ``hashes`` [m, t] with ``weights`` [m, t]."""
    mixed = mix(hashes)
    dimension = (mixed >> np.uint64(58)).astype(np.int64)
    signed = np.where(mixed & np.uint64(1), weights, -weights)
    at = dimension + np.arange(len(hashes))[:, None] * DIMENSIONS
    summed = np.bincount(at.ravel(), weights=signed.ravel(), minlength=len(hashes) * DIMENSIONS)
    vectors = summed.reshape(len(hashes), DIMENSIONS)
    length = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    found: I8 = np.rint(vectors * (_ONE / np.maximum(length, 1e-12))).astype(np.int8)
    return found


def products(drawn: I8) -> F32:
    """127² times the cosines of candidates with each other by sketches [u, N, 64]: [u, N, N]."""
    dense = drawn.astype(np.float32)
    found: F32 = dense @ dense.transpose(0, 2, 1)
    return found


def diversify(drawn: I8, items: I32, scores: F32, live: Bool, size: int, knob: float) -> I32:
    """Columns of the ``size`` candidates chosen by MMR, in the order chosen: [U, size], −1 padded.

    ``drawn`` [cap, 64] sketches by local id; ``items``, ``scores``, ``live`` [U, N] candidates, best first.
    ~10 µs a user with N = 40, size = 20.
    """
    chosen = np.full((len(items), size), -1, dtype=np.int32)
    for low in range(0, len(items), _CHUNK):
        part = slice(low, low + _CHUNK)
        alike = products(drawn.take(items[part], axis=0, mode="wrap"))
        _greedy(alike, scores[part], live[part], knob, chosen[part])
    return chosen


def _greedy(alike: F32, scores: F32, live: Bool, knob: float, chosen: I32) -> None:
    """MMR of u users by ``alike`` [u, N, N], into ``chosen`` [u, size]. All in units of d / 127²."""
    held = np.where(live, scores, np.float32(0))
    best = np.maximum(held.max(axis=1, keepdims=True, initial=0), np.finfo(np.float32).tiny)
    value = np.where(live, np.float32((1 - knob) / knob * _ONE**2) * (held / best), np.float32(-np.inf))
    nearest, begin = np.zeros_like(value), np.arange(len(value)) * value.shape[1]
    rows, flat = alike.reshape(-1, value.shape[1]), value.reshape(-1)
    for step in range(min(chosen.shape[1], value.shape[1])):
        at = (value - nearest).argmax(axis=1)
        chosen[:, step] = at
        at += begin
        flat[at] = -np.inf
        np.maximum(nearest, rows.take(at, axis=0), out=nearest)
    chosen[np.arange(chosen.shape[1]) >= np.count_nonzero(live, axis=1)[:, None]] = -1

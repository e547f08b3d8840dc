"""Weights that find rounding mistakes, for golden files and races: seeded, small, ugly."""
import numpy as np
import torch

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def _rows(kind, n, k, rng):
    w = rng.standard_normal((n, k)).astype(np.float32) * np.float32(0.05)
    if kind == "normal":
        return w
    if kind == "uniform":
        return rng.uniform(-1, 1, (n, k)).astype(np.float32)
    if kind == "zeros":  # whole rows of zeros between others, and zeros with both signs
        w[:: 2] = 0
        w[0, ::2] = -0.0
        return w
    if kind == "constant":  # every value of a row the same, positive, negative, tiny
        w[:] = np.array([0.25, -3.7, 1e-3, -1e-6, 1.0, 7e-5], np.float32)[np.arange(n) % 6][:, None]
        return w
    if kind == "outlier":  # one value sets the scale, the rest is near the first steps
        w[np.arange(n), rng.integers(0, k, n)] = np.where(np.arange(n) % 2, 97.3, -113.1)
        return w
    if kind == "negative":  # the largest magnitude is negative and met exactly: lowest codes
        w[np.arange(n), rng.integers(0, k, n)] = -(np.abs(w).max(1) + 2.0 ** rng.integers(-6, 6, n))
        return w
    if kind == "ties":  # multiples of half a step of a scale that is a power of two
        w = rng.integers(-255, 256, (n, k)).astype(np.float32) * np.float32(0.5)
        w[:, 0] = 127.5
        return w
    if kind == "small":  # near the smallest scale that the rule allows
        return w * np.float32(1e-6)
    if kind == "tiny":  # denormals of every dtype
        return w * np.float32(1e-37)
    if kind == "wide":  # every exponent that f16 has
        return (w * np.exp2(rng.integers(-20, 14, (n, k)))).astype(np.float32)
    if kind == "positive":  # zero lies at the edge of the range
        return np.abs(w) + np.float32(0.01)
    if kind == "steps":  # few distinct values
        return (rng.integers(-3, 4, (n, k)) * np.float32(0.3)).astype(np.float32)
    raise KeyError(kind)


KINDS = ["normal", "uniform", "zeros", "constant", "outlier", "negative", "ties", "small", "tiny", "wide",
         "positive", "steps"]


def weight(kind, n, k, dtype, seed):
    rng = np.random.default_rng([seed, n, k, KINDS.index(kind)])
    return torch.from_numpy(_rows(kind, n, k, rng)).to(DTYPES[dtype])

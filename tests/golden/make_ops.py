#!/usr/bin/env python3
"""Writes ops.golden: values and gradients of every operation as PyTorch computes them, in double precision.

One row per CASE of tests/ops/cases.def, under the same name. Inputs are f32 numbers, so that both element types start
from the same values. For each row: NAME/x0.. (inputs), NAME/y (result), NAME/r (seed gradient), NAME/g0.. (gradients).
Needs torch and numpy; run it in this folder.
"""
import numpy as np
import torch
import torch.nn.functional as F

import golden

torch.set_default_dtype(torch.float64)
rng = np.random.default_rng(20240229)
out = {}


def f32(a):
    return torch.tensor(np.asarray(a, dtype=np.float32).astype(np.float64))


def N(*s):
    return f32(rng.standard_normal(s)).requires_grad_()


def A(*s):
    a = rng.standard_normal(s)
    return f32(a + np.sign(a) * 0.1).requires_grad_()


def P(*s):
    return f32(rng.uniform(0.5, 2, s)).requires_grad_()


def D(*s):
    n = int(np.prod(s))
    return f32((rng.permutation(n) * 0.05 - 1).reshape(s)).requires_grad_()


def T(*s):
    return f32(rng.uniform(0, 1, s))


def I(limit, *s):
    return torch.tensor(rng.integers(0, limit, s))


def case(name, f, *inputs):
    y = f(*inputs)
    for i, x in enumerate(inputs):
        out[f"{name}/x{i}"] = x if x.dtype == torch.int64 else x.detach().float()
    out[f"{name}/y"] = y.detach()
    if not y.requires_grad:
        return
    r = f32(rng.standard_normal(tuple(y.shape)))
    out[f"{name}/r"] = r.float()
    wanted = [x for x in inputs if x.requires_grad]
    grads = iter(torch.autograd.grad(y, wanted, r, allow_unused=True))
    for i, x in enumerate(inputs):
        if x.requires_grad:
            g = next(grads)
            out[f"{name}/g{i}"] = torch.zeros_like(x) if g is None else g


def philox(key, ctr):
    """Philox4x32-10, Salmon et al. 2011, written from the paper."""
    k0, k1 = key
    c = list(ctr)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def dropout(x, p, layer, seed=11, step=5, first_sample=3):
    """The key is the block {purpose 4, layer, step's upper half} under the seed; counter {element / 4, sample, step}."""
    key = philox((seed, 0), (4, layer, 0, 0))[:2]
    rows, cols = x.shape
    u = [[(philox(key, (j // 4, first_sample + i, 0, step))[j % 4] >> 8) * 2.0**-24 for j in range(cols)] for i in range(rows)]
    return x * torch.tensor((np.array(u) >= p) / (1 - p))


def two_readers(x, w1, w2):
    h = torch.relu(x)
    return h @ w1.T + h @ w2.T + torch.tanh(h).sum(1, keepdim=True)


def batch_norm(x, g, b, training):
    c = x.shape[1]
    return F.batch_norm(x, torch.full((c,), 0.25), torch.full((c,), 1.5), g, b, training, 0.1, 1e-5)


def batch_norm_running(x):
    c = x.shape[1]
    mean, var = torch.full((c,), 0.25), torch.full((c,), 1.5)
    F.batch_norm(x, mean, var, None, None, True, 0.1, 1e-5)
    return torch.stack([mean, var])


def adaptive_max(x):
    return F.adaptive_max_pool2d(x, (3, 2))


def amax(x, dims, keep=False):
    return torch.amax(x, dims, keep)


# views
case("reshape", lambda x: x.reshape(-1, 6), N(4, 3, 2))
case("transpose", lambda x: x.transpose(0, -1), N(3, 2, 5))
case("permute", lambda x: x.permute(2, 0, 1), N(3, 2, 5))
case("slice", lambda x: x[:, 1:-1], N(3, 5))
case("broadcast", lambda x: x.expand(4, 3, 5), N(3, 1))
case("contiguous", lambda x: x.T, N(3, 5))
case("cast", lambda x: x.double() * 1, N(3, 5))
# two tensors
case("add", torch.add, N(3, 5), N(3, 5))
case("sub", torch.sub, N(4, 1, 3), N(2, 1))
case("mul", torch.mul, N(4, 1, 3), N(2, 3))
case("div", torch.div, N(4, 3), P(4, 1))
# one tensor
case("add_scalar", lambda x: x + 1.5, N(3, 5))
case("mul_scalar", lambda x: x * -2.5, N(3, 5))
case("rsub_scalar", lambda x: 1.5 - x, N(3, 5))
case("rdiv_scalar", lambda x: 1.5 / x, P(3, 5))
case("pow_scalar", lambda x: x**2.5, P(3, 5))
case("pow_square", lambda x: x**2, N(3, 5))
case("neg", torch.neg, N(3, 5))
case("exp", torch.exp, N(3, 5))
case("log", torch.log, P(3, 5))
case("sqrt", torch.sqrt, P(3, 5))
case("rsqrt", torch.rsqrt, P(3, 5))
case("abs", torch.abs, A(3, 5))
case("relu", torch.relu, A(3, 5))
case("leaky_relu", lambda x: F.leaky_relu(x, 0.1), A(3, 5))
case("gelu", F.gelu, N(3, 5))
case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), N(3, 5))
case("silu", F.silu, N(3, 5))
case("sigmoid", torch.sigmoid, N(3, 5))
case("tanh", torch.tanh, N(3, 5))
case("softplus", F.softplus, N(3, 5))
# reductions
case("sum_all", torch.sum, N(4, 3, 5))
case("sum_samples", lambda x: x.sum(0), N(9, 3, 5))
case("sum_rows", lambda x: x.sum(1, keepdim=True), N(4, 7))
case("sum_channels", lambda x: x.sum((0, 2)), N(4, 3, 5))
case("sum_apart", lambda x: x.sum((1, 3)), N(3, 4, 2, 5))
case("sum_apart_samples", lambda x: x.sum((0, 2), keepdim=True), N(5, 2, 3, 4))
case("mean_all", torch.mean, N(4, 3, 5))
case("mean_middle", lambda x: x.mean(1, keepdim=True), N(4, 3, 5))
case("max_rows", lambda x: amax(x, 1), D(4, 7))
case("max_all", lambda x: amax(x, (0, 1)), D(3, 5))
case("max_apart", lambda x: amax(x, (0, 2), True), D(3, 2, 4))
case("min_rows", lambda x: torch.amin(x, 1, True), D(4, 7))
case("min_samples", lambda x: torch.amin(x, 0), D(4, 7))
case("argmax", lambda x: x.argmax(-1), D(4, 7))
case("argmax_first", lambda x: x.argmax(0), D(4, 7))
# products
case("matmul", lambda a, b: a @ b, N(4, 5), N(5, 3))
case("matmul_ta", lambda a, b: a.mT @ b, N(5, 4), N(5, 3))
case("matmul_tb", lambda a, b: a @ b.mT, N(4, 5), N(3, 5))
case("matmul_tatb", lambda a, b: a.mT @ b.mT, N(5, 4), N(3, 5))
case("matmul_batch", lambda a, b: a @ b, N(2, 3, 4, 5), N(2, 3, 5, 2))
case("matmul_batch_tatb", lambda a, b: a.mT @ b.mT, N(3, 5, 4), N(2, 5))
case("linear", F.linear, N(6, 5), N(4, 5), N(4))
case("linear_rest", F.linear, N(9, 3, 5), N(4, 5), N(4))
case("linear_plain", F.linear, N(6, 5), N(4, 5))
case("linear_relu", lambda x, w, b: torch.relu(F.linear(x, w, b)), N(6, 5), N(4, 5), N(4))
case("linear_gelu", lambda x, w, b: F.gelu(F.linear(x, w, b)), N(6, 5), N(4, 5), N(4))
case("linear_gelu_tanh", lambda x, w, b: F.gelu(F.linear(x, w, b), approximate="tanh"), N(6, 5), N(4, 5), N(4))
case("mlp_fused", lambda x, w, b, v: torch.relu(F.linear(x, w, b)) @ v.T, N(6, 5), N(7, 5), N(7), N(3, 7))
case("relu_two_readers", two_readers, A(6, 5), N(3, 5), N(3, 5))
# convolution, pooling
case("conv", F.conv2d, N(2, 3, 5, 4), N(4, 3, 3, 2), N(4))
case("conv_same", lambda x, w: F.conv2d(x, w, padding=1), N(2, 2, 5, 7), N(3, 2, 3, 3))
case("conv_stride", lambda x, w, b: F.conv2d(x, w, b, (2, 3), (1, 2)), N(2, 2, 7, 6), N(3, 2, 3, 3), N(3))
case("conv_dilated_groups", lambda x, w, b: F.conv2d(x, w, b, dilation=(2, 1), groups=2), N(2, 4, 7, 4), N(6, 2, 3, 2), N(6))
case("conv_depthwise_relu", lambda x, w, b: torch.relu(F.conv2d(x, w, b, padding=1, groups=3)), N(2, 3, 4, 4), N(3, 1, 3, 3), N(3))
case("max_pool", lambda x: F.max_pool2d(x, 2), D(2, 2, 4, 6))
case("max_pool_overlap", lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-1e9), (3, 2), (2, 1)), D(2, 2, 7, 5))
case("avg_pool", lambda x: F.avg_pool2d(x, 2), N(2, 2, 4, 6))
case("avg_pool_overlap", lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 1), count_include_pad=False), N(2, 2, 7, 5))
case("adaptive_avg", lambda x: F.adaptive_avg_pool2d(x, (3, 2)), N(2, 2, 7, 5))
case("adaptive_max", adaptive_max, D(2, 2, 7, 5))
# normalisation
case("layer_norm", lambda x, g, b: F.layer_norm(x, (7,), g, b), N(4, 7), N(7), N(7))
case("layer_norm_plain", lambda x: F.layer_norm(x, (7,)), N(4, 7))
case("rms_norm", lambda x, g: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * g, N(4, 7), N(7))
case("rms_norm_plain", lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5), N(4, 7))
case("batch_norm", lambda x, g, b: batch_norm(x, g, b, True), N(9, 3, 2, 4), N(3), N(3))
case("batch_norm_plain", lambda x: batch_norm(x, None, None, True), N(9, 3, 5))
case("batch_norm_shards", lambda x, g, b: torch.cat([batch_norm(p, g, b, True) for p in x.split(2)]), N(16, 3, 5), N(3), N(3))
case("batch_norm_fixed", lambda x, g, b: batch_norm(x, g, b, False), N(5, 3, 4), N(3), N(3))
case("batch_norm_fixed_plain", lambda x: batch_norm(x, None, None, False), N(5, 3, 4))
case("batch_norm_running", batch_norm_running, T(9, 3, 4))
# indexing, joining
case("embedding", lambda t, i: F.embedding(i, t), N(5, 3), I(5, 4, 2))
case("gather", lambda x, i: torch.gather(x, 1, i), N(4, 5, 3), I(5, 4, 2, 3))
case("gather_short", lambda x, i: torch.gather(x, 0, i), N(4, 5), I(4, 6, 3))
case("concat", lambda *x: torch.cat(x, 1), N(2, 3), N(2, 1), N(2, 4))
case("stack", lambda *x: torch.stack(x, 1), N(3, 4), N(3, 4))
case("split", lambda x: torch.cat(x.split([1, 3, 2], 1)[::-1], 1), N(3, 6))
case("pad", lambda x: F.pad(x, (0, 2, 1, 0), value=0.5), N(3, 4))
# softmax, losses
case("softmax", lambda x: F.softmax(x, -1), N(4, 7))
case("softmax_first", lambda x: F.softmax(x, 0), N(4, 3, 2))
case("log_softmax", lambda x: F.log_softmax(x, -1), N(4, 7))
case("log_softmax_middle", lambda x: F.log_softmax(x, 1), N(4, 3, 2))
case("cross_entropy", F.cross_entropy, N(9, 7), I(7, 9))
case("cross_entropy_smooth", lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1, ignore_index=2), N(9, 5), I(5, 9))
case("mse", F.mse_loss, N(6, 5), N(6, 5))
case("l1", F.l1_loss, N(6, 5), N(6, 5))
case("bce", F.binary_cross_entropy_with_logits, N(6, 5), T(6, 5))
case("bce_both", F.binary_cross_entropy_with_logits, N(6, 5), P(6, 5))
case("dropout", lambda x: dropout(x, 0.3, 7), N(6, 5))

golden.write("ops.golden", out)

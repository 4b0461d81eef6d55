# SPDX-License-Identifier: Apache-2.0
"""The ways of computing attention and factors within a pack, each alone, forward and back, on a layer's shape."""

import time
from dataclasses import replace

import numpy
import torch
from gpu_models import BATCH, RANK
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from fedlora.core.lowrank import LowRank
from fedlora.training.forward.attention import by_length
from fedlora.training.forward.client_order import pack_by_client
from fedlora.training.forward.grouped import grouped_additions
from fedlora.training.forward.packed import PackedForward
from fedlora.training.forward.varlen import is_usable, varlen


def wait(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds_of(device, run, repeats=10):
    """The median of a few; two more go before them."""
    taken = []
    for _ in range(repeats + 2):
        wait(device)
        began = time.perf_counter()
        run()
        wait(device)
        taken.append(time.perf_counter() - began)
    return float(numpy.median(taken[2:]))


def roofline(device, small):
    """What the device gives at most: FLOP/s of large products, bytes/s of a large copy."""
    size, found = (256 if small else 8192), {}
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        found[str(dtype).removeprefix("torch.")] = 2 * size**3 / seconds_of(device, lambda a=a, b=b: a @ b)
    source = torch.zeros(2**20 if small else 2**30, device=device, dtype=torch.float32)
    target = torch.empty_like(source)
    return {"flops": found, "bytes_a_second": 2 * source.nbytes / seconds_of(device, lambda: target.copy_(source))}


def _pack(tokens, owned, clients, device):
    batches = [part.train[:BATCH] for part in list(owned.values())[:clients]]
    return pack_by_client(tokens, batches, device)


def attention_ways(tokens, owned, clients, base, device, dtype, repeats):
    """Milliseconds of one layer's attention, forward and back, by way; the tokens lie client by client."""
    config, packed = base.model.config, _pack(tokens, owned, clients, device)
    order, heads = packed.order, config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    width, causal = config.hidden_size // heads, config.model_type == "llama"
    count = packed.ids.shape[1]
    q, k, v = (
        torch.randn(count, some, width, device=device, dtype=dtype, requires_grad=True)
        for some in (heads, shared, shared)
    )

    def sorted_by_length():
        return by_length(q, k, v, packed.groups, causal, None, None)

    def brought_to_length():
        moved = (tensor.index_select(0, order.to_length) for tensor in (q, k, v))
        return by_length(*moved, packed.groups, causal, None, None).index_select(0, order.from_length)

    def padded():
        sizes = torch.diff(order.sequence_starts).tolist()
        wide = [pad_sequence(tensor.split(sizes), batch_first=True).transpose(1, 2) for tensor in (q, k, v)]
        real = torch.arange(max(sizes), device=device)[None] < torch.tensor(sizes, device=device)[:, None]
        seen = real[:, None, None].expand(-1, 1, max(sizes), -1)
        seen = seen.tril() if causal else seen
        made = functional.scaled_dot_product_attention(*wide, seen, enable_gqa=shared != heads)
        return made.transpose(1, 2)[real]

    ways = {
        "by length, sorted already": sorted_by_length,
        "by length, there and back": brought_to_length,
        "padded": padded,
    }
    if is_usable(q, causal, None):
        ways["varlen"] = lambda: varlen(q, k, v, order, causal, None, None)
    slope = torch.ones(count, heads, width, device=device, dtype=dtype)
    return {
        name: 1000 * seconds_of(device, lambda way=way: torch.autograd.grad(way(), [q, k, v], slope), repeats)
        for name, way in ways.items()
    }


def factor_ways(tokens, owned, clients, base, device, dtype, repeats):
    """Milliseconds of what the factors of one map add, forward and back, by way; factors in float32."""
    name, (d_out, d_in) = next(iter(base.shapes.items()))
    packed = _pack(tokens, owned, clients, device)
    pairs = [
        LowRank(*(torch.randn(*size, device=device).requires_grad_() for size in ((RANK, d_in), (d_out, RANK))))
        for _ in range(clients)
    ]
    parts, shapes = [{name: [pair]} for pair in pairs], {name: (d_out, d_in)}
    masked = PackedForward(base, replace(base.spec(RANK, 2.0), shapes=shapes), None, device)
    x = torch.randn(1, packed.ids.shape[1], d_in, device=device, dtype=dtype, requires_grad=True)
    leaves = [x, *(factor for pair in pairs for factor in (pair.A, pair.B))]
    ways = {
        "masked": lambda: masked._additions(parts, packed.member, 0.0)[name](x),
        "grouped": lambda: grouped_additions(parts, shapes, 2.0, packed.order)[name](x),
    }

    def forth_and_back(run):
        made = run()
        torch.autograd.grad(made, leaves, torch.ones_like(made))

    return {way: 1000 * seconds_of(device, lambda run=run: forth_and_back(run), repeats) for way, run in ways.items()}

"""Fixtures over the small models."""

import pytest
import torch
from tiny_models import LABELS, some_tokens, tiny_model, tokenizer

from fedlora.core.adapter import Adapter, Start
from fedlora.training.bases.model import make_base


@pytest.fixture
def tiny_base():
    def make(kind, **options):
        return make_base(tiny_model(kind), tokenizer(), kind, LABELS, **options)

    return make


@pytest.fixture
def adapters():
    """A random adapter with a rank of its own in every module."""

    def make(base, ranks=(2, 1, 3), seed=0):
        generator = torch.Generator().manual_seed(seed)
        A, B = {}, {}
        for number, (module, (d_out, d_in)) in enumerate(base.shapes.items()):
            r = ranks[number % len(ranks)]
            A[module] = torch.randn(r, d_in, generator=generator) / d_in**0.5
            B[module] = torch.randn(d_out, r, generator=generator) / d_out**0.5
        return Start(Adapter(A, B, {name: part + 0.01 for name, part in base.head.items()}))

    return make


@pytest.fixture
def tokens():
    return some_tokens()

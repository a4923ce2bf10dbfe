"""Products by oneDNN are those of PyTorch, and stay out of the way of whoever trains."""

import pytest
import torch
from torch.nn import functional

from helpers import models
from steerlib.numerics import products
from steerlib.numerics.products import product

DRAW = torch.Generator().manual_seed(0)


def drawn(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=DRAW).to(dtype)


@pytest.mark.parametrize("shape", [(1,), (15,), (300,), (3, 40), (2, 5, 7), (0,)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_is_that_of_pytorch(shape, biased):
    states, weight, bias = drawn(*shape, 48), drawn(130, 48), drawn(260)[::2] if biased else None
    exact = functional.linear(states.double(), weight.double(), bias if bias is None else bias.double())
    found = product(states, weight, bias)
    assert found.dtype == torch.float32 and found.shape == exact.shape
    assert torch.allclose(found.double(), exact, atol=1e-4)
    # Also of a slice of other states, and of rows of other weights.
    wider, more = torch.cat([states, drawn(*shape, 8)], -1), torch.cat([weight, drawn(130, 8)], -1)
    assert torch.allclose(product(wider[..., :48], more[:, :48], bias).double(), exact, atol=1e-4)


@pytest.fixture
def rows(monkeypatch):
    """Shapes of what oneDNN multiplies."""
    shapes, own = [], torch.ops.mkldnn._linear_pointwise
    counted = lambda states, *rest: shapes.append(states.shape) or own(states, *rest)  # noqa: E731
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    return shapes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_other_dtypes_are_left_to_pytorch(rows, dtype):
    states, weight = drawn(40, 32, dtype=dtype), drawn(64, 32, dtype=dtype)
    assert torch.allclose(product(states, weight), functional.linear(states, weight), atol=1e-4)
    assert len(rows) == (dtype == torch.float32)


def test_of_little_or_without_onednn_pytorch_multiplies(rows, monkeypatch):
    states, weight = drawn(40, 32), drawn(64, 32)
    for name, value in (("LEAST", states.numel() * len(weight) + 1), ("_THERE", False)):
        with monkeypatch.context() as patched:
            patched.setattr(products, name, value)
            product(states, weight)
    assert not rows
    product(states, weight)
    assert rows


@pytest.mark.parametrize("trained", range(3))
def test_what_is_trained_has_its_gradient(rows, trained):
    parts = [drawn(40, 32), drawn(64, 32), drawn(64)]
    parts[trained].requires_grad_()
    product(*parts).sum().backward()
    assert parts[trained].grad.abs().sum() > 0 and not rows


@pytest.mark.parametrize(("architecture", "each"), [("gpt_neox", 4), ("llama", 7), ("gpt2", 4)])
def test_a_model_multiplies_so_and_is_trained_as_ever(rows, architecture, each):
    model = models.build(architecture)
    names, ids = set(model.hf.state_dict()), torch.arange(40)[None] % 5
    with torch.no_grad():
        by_onednn = model.hf(ids).logits
    assert len(rows) == each * model.n_layers + 1
    assert names == set(type(model.hf)(model.hf.config).state_dict())
    rows.clear()
    trained = model.hf(ids).logits
    trained.logsumexp(-1).sum().backward()
    assert not rows and all(weight.grad is not None for weight in model.hf.parameters())
    assert torch.allclose(by_onednn, trained, atol=1e-5)

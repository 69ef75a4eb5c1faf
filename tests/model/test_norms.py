"""Each norm's gradients are its equation's; what a folder stores is what the norm computes."""

import math

import numpy as np
import pytest
import torch
from sse_kernels import TableGrad
from torch import nn

import sse
from sse.common.errors import UserError
from sse.model.model import SSE
from sse.model.norm_forms import ACTIVATIONS, NORM_FORMS
from sse.model.norms import NORMS, Gate, make_norm
from tests.helpers.samples import unseal

GATES = [name for name in NORMS if issubclass(NORMS[name], Gate)]
TEXTS = ["", "the red circle rolls over the small square", "blue " * 300]


def shifted(name, dim=7):
    """A norm of float64 away from its start, and inputs on both sides of every kink."""
    generator = torch.Generator().manual_seed(0)
    norm = make_norm(name, dim).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            step = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.1 * step
    x = 3 * torch.randn(6, dim, generator=generator, dtype=torch.float64)
    if name == "hardtanh":
        z = norm.preactivation(x).detach()
        assert (z > 1).any() and (z < -1).any() and ((z.abs() - 1).abs() > 1e-4).all()
    return norm, x.requires_grad_()


@pytest.mark.parametrize("name", NORMS)
def test_the_gradients_equal_finite_differences(name):
    norm, x = shifted(name)
    assert torch.autograd.gradcheck(lambda x, *p: norm(x), (x, *norm.parameters()))


# f'(z) of the gates whose f is not tanh.
SLOPES = {
    "hardtanh": lambda z: (z.abs() < 1).double(),
}


@pytest.mark.parametrize("name", GATES)
def test_the_gradients_of_a_gate_are_the_closed_ones(name):
    norm, x = shifted(name)
    norm.requires_grad_()  # the frozen one's too
    g = torch.randn(x.shape, dtype=torch.float64)
    result = torch.autograd.grad(norm(x), (x, norm.alpha, norm.beta, norm.bias), g)
    alpha, beta, bias = norm.alpha, norm.beta, norm.bias
    z = alpha * x + (0 if name == "dyt_outside" else bias)
    slope = SLOPES.get(name, lambda z: 1 / torch.cosh(z) ** 2)(z)
    value = norm.activation(z)
    by_alpha = g * beta * slope * x
    expected = (
        g * beta * slope * alpha,
        by_alpha.sum() if name == "dyt_scalar" else by_alpha.sum(0),
        (g * value).sum(0),
        g.sum(0) if name == "dyt_outside" else (g * beta * slope).sum(0),
    )
    for one, other in zip(result, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_gradients_of_the_row_norms_are_the_closed_ones():
    norm, x = shifted("layernorm")
    g = torch.randn(x.shape, dtype=torch.float64)
    s = (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    n, h = (x - x.mean(1, keepdim=True)) / s, g * norm.weight
    expected = (h - h.mean(1, keepdim=True) - n * (h * n).mean(1, keepdim=True)) / s
    torch.testing.assert_close(torch.autograd.grad(norm(x), x, g)[0], expected)
    norm, x = shifted("rmsnorm")
    length = x.norm(dim=1, keepdim=True)
    u, h = x / length, g * norm.weight * math.sqrt(x.shape[1])
    expected = (h - u * (u * h).sum(1, keepdim=True)) / length
    torch.testing.assert_close(torch.autograd.grad(norm(x), x, g)[0], expected)


@pytest.mark.parametrize("name", NORMS)
def test_pooling_equals_the_plain_modules_with_every_gradient(make_model, name):
    """Fused or not, with the trainer's reused buffer for the table's gradient or without."""
    ids = torch.tensor([5, 9, 9, 30, 7, 5])
    offsets = torch.tensor([0, 3, 3, 6])  # the second text is empty
    results = []
    for reuse in (False, True, None):
        model = make_model(name, dim=12)
        if reuse is None:
            bag = nn.functional.embedding_bag(
                ids, model.embedding.weight, offsets, mode="mean", include_last_offset=True
            )
            y = model.norm(bag)
        else:
            model.table_grad = TableGrad() if reuse else None
            y = model.pool(ids, offsets)
        (y * torch.linspace(-1, 2, y.numel()).view(y.shape)).sum().backward()
        results.append([y, *(p.grad for p in model.parameters() if p.requires_grad)])
    for result in results[:2]:
        assert len(result) == len(results[2])
        for one, other in zip(result, results[2], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NORMS)
def test_an_empty_text_is_finite_and_nan_is_not_hidden(name):
    norm = make_norm(name, 4)
    zero, nan = torch.zeros(1, 4), torch.full((1, 4), math.nan)
    assert norm(zero).isfinite().all()
    assert norm(nan).isnan().all()
    vectors = {key: value.numpy() for key, value in norm.vectors().items()}
    for x in (zero.numpy().copy(), nan.numpy().copy()):
        expected = norm(torch.from_numpy(x.copy())).detach().numpy()
        NORM_FORMS[name].apply(x, vectors)
        np.testing.assert_allclose(x, expected, atol=1e-7)


def test_the_two_registries_agree():
    assert list(NORMS) == list(NORM_FORMS)
    for name in NORMS:
        assert set(make_norm(name, 3).vectors()) == set(NORM_FORMS[name].stored)
    assert all(hasattr(nn, name) for name in ACTIVATIONS)


def test_every_activation_equals_torchs():
    z = torch.linspace(-6, 6, 40_001)
    for name, function in ACTIVATIONS.items():
        x = z.numpy().copy()
        function(x)
        expected = getattr(nn, name)()(z)
        np.testing.assert_allclose(x, expected.numpy(), rtol=0, atol=3e-7)


@pytest.mark.parametrize("name", NORMS)
def test_vectors_go_out_and_come_back(make_model, tokenizer, name):
    model = make_model(name)
    other = SSE(tokenizer, 32, name, seed=0)
    other.norm.load_vectors(model.norm.vectors())
    for key, value in model.norm.state_dict().items():
        torch.testing.assert_close(other.norm.state_dict()[key], value)
    assert all(value.shape == (32,) for value in model.norm.vectors().values())


def test_the_frozen_norm_has_nothing_to_train_also_after_loading(make_model, tmp_path):
    model = make_model("dyt_frozen")
    folder = sse.export(model, tmp_path / "model")
    for one in (model, sse.load(folder)[0]):
        assert [n for n, p in one.named_parameters() if p.requires_grad] == ["embedding.weight"]


def test_an_alpha_that_differs_is_no_scalar(make_model, tmp_path):
    folder = unseal(sse.export(make_model("dyt"), tmp_path / "model"))
    config = folder / "sse_config.json"
    config.write_text(config.read_text().replace('"dyt"', '"dyt_scalar"'))
    with pytest.raises(UserError, match="alpha differs"):
        sse.load(folder)


def test_an_unknown_norm_names_the_known_ones(tokenizer):
    known = "dyt, dyt_scalar, dyt_outside, dyt_frozen, hardtanh, layernorm, rmsnorm, gain, none"
    with pytest.raises(UserError, match=f"'batchnorm'.*{known}"):
        SSE(tokenizer, 8, "batchnorm")


def test_the_norm_may_have_a_learning_rate_of_its_own(tmp_path):
    from sse.training.run import main
    from tests.helpers.pair_files import write

    rows = [{"anchor": f"red {n} circle", "positive": f"{n} rolls over"} for n in range(200)]
    common = [
        f"--data.paths={write(tmp_path / 'pairs.jsonl', rows)}",
        f"--data.cache={tmp_path / 'cache'}",
        "--data.vocab_size=300",
        "--data.batch_size=32",
        "--model.dim=16",
        "--model.norm=dyt",
        "--trainer.max_steps=4",
        "--trainer.enable_progress_bar=false",
        "--trainer.accelerator=cpu",
        "--eval.baselines=false",
        "--diagnostics=0",
    ]
    states = {}
    rates = {"table's": "null", "equal": "0.1", "still": "0"}
    for name, rate in rates.items():
        out = tmp_path / name
        main([*common, f"--out={out}", f"--model.norm_lr={rate}"])
        state = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
        states[name] = state["state_dict"]
    assert all(torch.equal(states["equal"][key], value) for key, value in states["table's"].items())
    assert (states["still"]["model.norm.alpha"] == 0.5).all()
    assert not (states["table's"]["model.norm.alpha"] == 0.5).any()
    table = "model.embedding.weight"
    assert not torch.equal(states["still"][table], states["table's"][table])

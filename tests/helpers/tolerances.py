"""How far a result may lie from its float64 reference, by what was added up to make it.

Rounding is relative to the terms of a sum, never to the sum: where terms cancel, the result is
small and its error is not. For n terms that each carry a few roundings of unit u = eps / 2,

    |error| <= (OPERATIONS + sqrt(n)) * eps * sum of |terms|

Equal terms round alike: n terms of which m differ count as n / sqrt(m) in place of sqrt(n).

The sqrt is the probabilistic bound of N. Higham and T. Mary, "A New Approach to Probabilistic
Rounding Error Analysis" (SIAM J. Sci. Comput. 41, 2019); the certain one has n in its place.
`terms` are first-order: a term's own error e in its inputs counts as |d term / d input| * e.
"""

import copy
import json
import os

import torch

OPERATIONS = 4  # roundings in a row beside those of the sum: products, norms, exp, tanh


def eps(dtype):
    return torch.finfo(dtype).eps


def roots(n, different=None):
    """sqrt(n), at least 1; n / sqrt(different) where terms are equal."""
    n = torch.as_tensor(n, dtype=torch.float64).clamp(min=1)
    return n.sqrt() if different is None else n / different.clamp(min=1).sqrt()


def rounding(terms, dtype, n=1, different=None):
    """The bound above, element by element; `n` may be a tensor."""
    root = roots(n, different)
    return (OPERATIONS + root) * eps(dtype) * terms + torch.finfo(dtype).tiny


def stored(tolerances, values, dtype):
    """The tolerances of results that are rounded once more, to `dtype`, below its normals too."""
    least = torch.finfo(dtype).smallest_normal * eps(dtype)
    return [t + eps(dtype) * v.abs() + least for t, v in zip(tolerances, values, strict=True)]


def assert_within(family, got, expected, tolerance):
    """Every element within its tolerance. SSE_RATIOS=FILE records the worst error/tolerance."""
    got, expected, tolerance = (
        torch.as_tensor(t).detach().double() for t in (got, expected, tolerance)
    )
    assert got.shape == expected.shape, family
    if not got.numel():
        return
    ratio = float(((got - expected).abs() / tolerance).max())
    if path := os.environ.get("SSE_RATIOS"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps([family, ratio]) + "\n")
    assert ratio <= 1, f"{family}: error is {ratio:.3g} of its tolerance"  # a NaN fails too


def through(function, x, *parameters):
    """A step of a computation, row by row: its value in float64, and the terms of its rounding.

    Each argument is (value, terms), x's (B, D), a parameter's flat. An input's terms pass with the
    absolute Jacobian; the step's own rounding adds |value|.
    """
    values = [value for value, _ in (x, *parameters)]
    which = tuple(range(len(values)))
    dims = (0, *[None] * len(parameters))
    out = torch.func.vmap(function, dims)(*values)
    jacobians = torch.func.vmap(torch.func.jacrev(function, which), dims)(*values)
    passed = (jacobians[0].abs() @ x[1][:, :, None])[:, :, 0]
    passed = passed + sum(j.abs() @ t for j, (_, t) in zip(jacobians[1:], parameters, strict=True))
    return out, torch.nan_to_num(passed, 0.0, 0.0) + out.abs()  # x = 0 may have no Jacobian


def text_vectors(model, texts, normalize=True, dim=None):
    """Vectors of an SSE module in float64, (B, D), and their tolerances in float32.

    The four steps of every encoder: mean of rows, norm, prefix of `dim`, unit length.
    """
    norm, table = copy.deepcopy(model.norm).double(), model.embedding.weight.detach().double()
    batch = model.text_tokenizer.encode(texts)
    bags = [table[batch[i].astype("int64")] for i in range(len(texts))]
    mean = torch.stack([rows.sum(0) / max(len(rows), 1) for rows in bags])
    counts = [
        len(rows) / max(len(rows.unique(dim=0)), 1) ** 0.5 if len(rows) else 0 for rows in bags
    ]
    size = torch.stack([rows.abs().sum(0) / max(len(rows), 1) for rows in bags])
    size = size * (1 + torch.tensor(counts)[:, None] / OPERATIONS)
    parameters = {name: p.detach() for name, p in norm.named_parameters()}

    def apply(x, *flat):
        own = {k: f.view(p.shape) for (k, p), f in zip(parameters.items(), flat, strict=True)}
        return torch.func.functional_call(norm, own, (x[None],))[0]

    flat = [p.reshape(-1) for p in parameters.values()]
    value, terms = through(apply, (mean, size), *((f, f.abs()) for f in flat))
    value, terms = value[:, :dim], terms[:, :dim]
    if normalize:
        value, terms = through(lambda x: x / x.norm().clamp(min=1e-12), (value, terms))
    return value, rounding(terms, torch.float32)


def contrastive_bounds(query, documents, dims, weights=None, scale=20.0, symmetric=False,
                       excluded=None, first=0, label_smoothing=0.0, dtype=torch.float32,
                       products=None):  # fmt: skip
    """Tolerances of the Matryoshka contrastive loss and of its gradients by query and documents.

    Of each prefix, with c = sum |q||d| / (|q||d|) <= 1 and S = scale * cosine:
    a logit is off by scale * c; a log-sum-exp by sum_j p_j scale c_j + |lse|; the residual
    P = p - target by p (scale c + the lse's + |S - lse| + 1) + target, even where P is 0;
    and a gradient by the sum over j of (P's + |P|) (|d_j| + c |q|) scale / |q|.
    `products` is the dtype that P is rounded to before its product with the vectors.
    """
    q, d = query.detach().double(), documents.detach().double()
    b, m = len(q), len(d)
    own = torch.zeros(b, m, dtype=torch.bool)
    own[torch.arange(b), first + torch.arange(b)] = True
    kept = ~excluded if excluded is not None else torch.ones(b, m, dtype=torch.bool)
    loss, of_q, of_d = 0.0, torch.zeros_like(q), torch.zeros_like(d)
    least = torch.finfo(dtype).tiny / eps(dtype)  # a p below the normals may become 0
    narrow = 1 if products is None else eps(products) / eps(dtype)
    for dim, weight in zip(dims, weights or [1.0] * len(dims), strict=True):
        lengths = [x[:, :dim].norm(dim=1, keepdim=True).clamp(min=1e-12) for x in (q, d)]
        u, v = (x[:, :dim] / length for x, length in zip((q, d), lengths, strict=True))
        logits, c = scale * u @ v.T, u.abs() @ v.abs().T
        ways = [(logits, kept, own, c)]
        if symmetric:
            ways.append(tuple(x[:, :b].T for x in ways[0]))
        off, residual = torch.zeros(b, m).double(), torch.zeros(b, m).double()
        for way, (s, k, o, cc) in enumerate(ways):
            masked = s.masked_fill(~k, -torch.inf)
            lse = masked.logsumexp(1, keepdim=True)
            p = (masked - lse).exp()
            target = (1 - label_smoothing) * o + label_smoothing * k / k.sum(1, keepdim=True)
            lse_off = (p * scale * cc).sum(1, keepdim=True) + lse.abs()
            p_off = p * (scale * cc + lse_off + torch.where(k, s - lse, 0).abs() + 1)
            p_off = p_off + target + least * k
            mean = (lse_off + (target * (scale * cc + s.abs())).sum(1, keepdim=True)).mean()
            loss = loss + weight / len(ways) * mean
            place = (slice(None), slice(0, s.shape[1])) if not way else (slice(None), slice(0, b))
            off[place] += p_off.T if way else p_off
            residual[place] += (p - target).T if way else p - target
        total = (off + narrow * residual.abs()) * weight * scale / b / len(ways)
        of_q[:, :dim] += (total @ v.abs() + (total * c).sum(1, keepdim=True) * u.abs()) / lengths[0]
        total = total.T
        of_d[:, :dim] += (total @ u.abs() + (total * c.T).sum(1, keepdim=True) * v.abs()) / lengths[
            1
        ]
    terms = (torch.as_tensor(loss), of_q, of_d)
    return [rounding(t, dtype, n) for t, n in zip(terms, (m, m, b), strict=True)]

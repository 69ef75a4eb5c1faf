"""Vectors to lose on, and the loss with its gradients."""

import torch

from sse.loss.matryoshka import matryoshka_loss


def vectors(b, columns, dim, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(b, dim, generator=generator, dtype=dtype).requires_grad_()
        for _ in range(columns)
    ]


def ours(columns, dims, weights=None, **kwargs):
    value = matryoshka_loss(columns[0], torch.cat(columns[1:]), dims, weights, **kwargs)
    return value.detach(), torch.autograd.grad(value, columns)

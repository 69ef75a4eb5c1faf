"""Fused EmbeddingBag mean + Separable DyT: `bag_dyt` and `bag_mean`, on the CPU and with Triton."""

from sse_kernels.ops import bag_dyt, bag_mean

__all__ = ["bag_dyt", "bag_mean"]

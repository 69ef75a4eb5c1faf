"""Fused EmbeddingBag mean + Separable DyT (`bag_dyt`, `bag_mean`), on the CPU and with Triton; the
Matryoshka contrastive loss (`matryoshka_contrastive`) with Triton.
"""

from sse_kernels.bag import bag_dyt, bag_mean
from sse_kernels.contrastive.op import matryoshka_contrastive
from sse_kernels.plan import BagPlan, plan_bags
from sse_kernels.table_grad import TableGrad

__all__ = ["BagPlan", "TableGrad", "bag_dyt", "bag_mean", "matryoshka_contrastive", "plan_bags"]

"""The Matryoshka contrastive loss on a GPU: `op` with the derivation, and two sets of kernels."""

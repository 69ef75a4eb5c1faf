"""tanh and sech^2 for Triton, accurate to rounding and the same in the interpreter and on any GPU.

`libdevice.tanh` does not run in the interpreter, `2 * sigmoid(2x) - 1` loses all digits near 0, and
`1 - tanh^2` loses them where tanh saturates.
"""
# ruff: noqa: ANN001, ANN201, D103 -- to Triton an annotation is a type of its own
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    # Cephes' split (S. Moshier, Methods and Programs for Mathematical Functions, 1989): below 0.625
    # an odd polynomial (float32) or rational function (float64), above it exp of a negative number.
    a = tl.abs(x)
    t = tl.exp(-2.0 * a)
    far = (1.0 - t) / (1.0 + t)
    z = x * x
    if x.dtype == tl.float64:
        p = ((-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z) - (
            1.61468768441708447952e3
        )
        q = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + (
            4.84406305325125486048e3
        )
        near = x + x * z * (p / q)
    else:
        p = -5.70498872745e-3 * z + 2.06390887954e-2
        p = p * z - 5.37397155531e-2
        p = p * z + 1.33314422036e-1
        p = p * z - 3.33332819422e-1
        near = x + x * z * p
    signed = tl.where(x < 0, -far, far)
    # a NaN fails the comparison and takes `signed`, which is NaN
    return tl.where(a < 0.625, near, signed)


@triton.jit
def sech2(z):
    s = tl.exp(-2.0 * tl.abs(z))
    return 4.0 * s / ((1.0 + s) * (1.0 + s))

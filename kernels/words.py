"""Bytes and 8-byte words of text by address, for kernels that walk text.

A kernel takes the address of an array that it was passed, by `address_of`, and gives only that to its routines: numba counts the
references to an array at every call, with atomic instructions, which costs more than what the routines do. The array lives
as long as the kernel runs, and the address must not outlive it. The caller vouches for every index; `word` alone may be asked
for bytes behind the end of the text: they are zero.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from forebay.kernels.jit import routine
from forebay.kernels.memory import load_u8, load_u64

_I64, _I128 = (ir.IntType(n) for n in (64, 128))


@intrinsic
def address_of(typingctx, array):
    """The address of an array's first element, as an int64."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, value=args[0]).data
        return builder.ptrtoint(data, _I64)

    return types.int64(array), codegen


@intrinsic
def low_zeros(typingctx, x):
    """Number of zero bits below the lowest set bit of a uint64, as an int64; x must not be 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.uint64), codegen


@intrinsic
def high_zeros(typingctx, x):
    """Number of zero bits above the highest set bit of a uint64, as an int64; x must not be 0."""

    def codegen(context, builder, signature, args):
        return builder.ctlz(args[0], ir.IntType(1)(1))

    return types.int64(types.uint64), codegen


@intrinsic
def high_product(typingctx, a, b):
    """The upper 64 bits of the product of two uint64."""

    def codegen(context, builder, signature, args):
        product = builder.mul(builder.zext(args[0], _I128), builder.zext(args[1], _I128))
        return builder.trunc(builder.lshr(product, _I128(64)), _I64)

    return types.uint64(types.uint64, types.uint64), codegen


@routine
def byte_at(text, at):
    """The byte at an index of the text, as an int64."""
    return np.int64(load_u8(text + at))


@routine
def byte(text, at, end):
    """The byte at an index of the text, as an int64; 0 from `end` on."""
    return np.int64(load_u8(text + at)) if at < end else 0


@routine
def word(text, at, size):
    """Eight bytes from `at`, little-endian, of a text of `size` bytes."""
    if at + 8 <= size:
        return load_u64(text + at)
    x = np.uint64(0)
    for k in range(size - at):
        x |= load_u8(text + at + k) << np.uint64(8 * k)
    return x

"""Loads, stores, prefetch and copies at raw addresses: the only place where kernels touch memory without an array.

An address is an int64. Address-typed kernels walk chunk pointer tables faster than arrays of arrays could, but outlive their
buffers silently: only those may call them that own all they pass: `engine.state.rows`, `engine.state.index` and
`connectors.formats.fragments` their chunks, `connectors.kafka.intake` the client's messages. Kernels that are passed arrays
may walk them by address within the call (`kernels.words`).
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I8, _I16, _I32, _I64, _I128 = (ir.IntType(n) for n in (8, 16, 32, 64, 128))
_F64 = ir.DoubleType()


def _loader(name, llvm_type, numba_type, extend):
    @intrinsic
    def load(typingctx, address):
        def codegen(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], llvm_type.as_pointer())
            value = builder.load(pointer, align=1)
            if extend == "zero":
                value = builder.zext(value, _I64)
            elif extend == "sign":
                value = builder.sext(value, _I64)
            return value

        return numba_type(types.int64), codegen

    load.__name__ = name
    return load


def _storer(name, llvm_type, numba_type, narrow):
    @intrinsic
    def store(typingctx, address, value):
        def codegen(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], llvm_type.as_pointer())
            stored = builder.trunc(args[1], llvm_type) if narrow else args[1]
            builder.store(stored, pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, numba_type), codegen

    store.__name__ = name
    return store


load_u64 = _loader("load_u64", _I64, types.uint64, None)
load_i64 = _loader("load_i64", _I64, types.int64, None)
load_u32 = _loader("load_u32", _I32, types.uint64, "zero")
load_i32 = _loader("load_i32", _I32, types.int64, "sign")
load_u16 = _loader("load_u16", _I16, types.uint64, "zero")
load_u8 = _loader("load_u8", _I8, types.uint64, "zero")
load_f64 = _loader("load_f64", _F64, types.float64, None)
store_u64 = _storer("store_u64", _I64, types.uint64, False)
store_i64 = _storer("store_i64", _I64, types.int64, False)
store_i32 = _storer("store_i32", _I32, types.int64, True)
store_u8 = _storer("store_u8", _I8, types.int64, True)
store_f64 = _storer("store_f64", _F64, types.float64, False)


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at `address`; harmless on a bad one."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def copy_bytes(typingctx, target, source, count):
    """memcpy of `count` bytes."""

    def codegen(context, builder, signature, args):
        to = builder.inttoptr(args[0], _I8.as_pointer())
        since = builder.inttoptr(args[1], _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I8.as_pointer(), _I64, ir.IntType(1)])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.memcpy.p0.p0.i64")
        builder.call(function, [to, since, args[2], ir.IntType(1)(0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def fold_multiply(typingctx, a, b):
    """The low 64 bits of a·b xor the high 64 bits."""

    def codegen(context, builder, signature, args):
        product = builder.mul(builder.zext(args[0], _I128), builder.zext(args[1], _I128))
        low = builder.trunc(product, _I64)
        high = builder.trunc(builder.lshr(product, _I128(64)), _I64)
        return builder.xor(low, high)

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic
def call_free(typingctx, function, address):
    """Call the C function `void f(void *)` at an address."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer()])
        target = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(target, [builder.inttoptr(args[1], _I8.as_pointer())])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def call_timestamp(typingctx, function, address, kind_out):
    """Call the C function `int64_t f(void *, int *)` at an address."""

    def codegen(context, builder, signature, args):
        pointer = _I8.as_pointer()
        kind = ir.FunctionType(_I64, [pointer, pointer])
        target = builder.inttoptr(args[0], kind.as_pointer())
        return builder.call(target, [builder.inttoptr(args[1], pointer), builder.inttoptr(args[2], pointer)])

    return types.int64(types.int64, types.int64, types.int64), codegen

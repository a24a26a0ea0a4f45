"""Kafka messages as librdkafka hands them over: arrays of addresses, to columns, without a Python object per message.

A message is C's `rd_kafka_message_t`, of a documented layout (64-bit systems):

     0 error (int32)    8 topic (handle)    16 partition (int32)    24 value    32 its length
    40 key             48 its length        56 offset (int64)       64 the client's own

Each message is one allocation that its owner frees once (`free`): these kernels read it between the two, and keep nothing. A
NULL value or key has address 0. Messages are visited in the order in which they were allocated; reading a few ahead hides
the misses of the cache.
"""

from __future__ import annotations

from numba import int8, int32, int64, uint8, void

from forebay.kernels.jit import kernel
from forebay.kernels.memory import call_free, call_timestamp, copy_bytes, load_i32, load_i64, prefetch

SIZE = 72
"""Bytes of a message."""
VALUE, KEY = 24, 40
"""Where a message has its value and its key."""
_TOPIC, _PARTITION, _OFFSET = 8, 16, 56
_AHEAD = 4

_i8s, _i32s, _i64s, _u8s = int8[::1], int32[::1], int64[::1], uint8[::1]


@kernel(int64(_i64s, int64, _i64s, _i32s, _i64s, _i64s))
def scan(messages, n, good, partitions, offsets, topics):
    """Where the messages come from: those without an error go to `good` in order, and their partition, offset and topic
    to the columns beside it; those with one go to the end of `good`, last first. Returns how many are good."""
    count, bad = 0, n
    for i in range(n):
        if i + _AHEAD < n:
            prefetch(messages[i + _AHEAD])
        message = messages[i]
        if load_i32(message) != 0:
            bad -= 1
            good[bad] = message
            continue
        good[count] = message
        partitions[count] = load_i32(message + _PARTITION)
        offsets[count] = load_i64(message + _OFFSET)
        topics[count] = load_i64(message + _TOPIC)
        count += 1
    return count


@kernel(int64(_i64s, int64, _i64s, _u8s))
def measure(messages, field, ends, valid):
    """`ends[i + 1]`: the bytes of the field in messages 0 to i; `valid[i]`: 0 where it is NULL. Returns how many are."""
    total, nulls = 0, 0
    ends[0] = 0
    for i in range(messages.shape[0]):
        if i + _AHEAD < messages.shape[0]:
            prefetch(messages[i + _AHEAD])
        present = load_i64(messages[i] + field) != 0
        if present:
            total += load_i64(messages[i] + field + 8)
        else:
            nulls += 1
        valid[i] = present
        ends[i + 1] = total
    return nulls


@kernel(void(_i64s, int64, _i64s, int64))
def gather(messages, field, ends, out):
    """Copy the field of every message to address `out`, one after the other; `ends` is `measure`'s."""
    for i in range(messages.shape[0]):
        if i + _AHEAD < messages.shape[0]:
            prefetch(load_i64(messages[i + _AHEAD] + field))
        copy_bytes(out + ends[i], load_i64(messages[i] + field), ends[i + 1] - ends[i])


@kernel(void(_i64s, int64, _i64s, _i32s))
def timestamps(messages, function, times, kinds):
    """Time and kind of every message, as `rd_kafka_message_timestamp` at address `function` tells them."""
    for i in range(messages.shape[0]):
        times[i] = call_timestamp(function, messages[i], kinds.ctypes.data + 4 * i)


@kernel(void(_i64s, int64, int64))
def free(messages, n, function):
    """Give back the first n messages by `rd_kafka_message_destroy` at address `function`."""
    for i in range(n):
        call_free(function, messages[i])

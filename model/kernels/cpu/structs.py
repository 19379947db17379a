"""The structs of kernels.h, for ctypes. They hold addresses: who makes one keeps what it points to."""

from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p

FORMATS = {"float32": 0, "bfloat16": 1, "int8": 2, "int4": 3}
EPILOGUES = {"store": 0, "add": 1, "gated": 2}
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}


class LinearArguments(Structure):
    """struct Linear of kernels.h."""

    _fields_ = (
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("norm", c_void_p),
        ("eps", c_float),
        ("num_inputs", c_int32),
        ("num_outputs", c_int32),
        ("format", c_int32),
        ("epilogue", c_int32),
        ("activation", c_int32),
    )


class ChoicesArguments(Structure):
    """struct Choices of kernels.h."""

    _fields_ = (
        ("num_rows", c_int64),
        ("vocab_size", c_int64),
        ("temperature", c_void_p),
        ("top_k", c_void_p),
        ("top_p", c_void_p),
        ("min_p_gap", c_void_p),
        ("typical_p", c_void_p),
        ("uniform", c_void_p),
    )


class MasksArguments(Structure):
    """struct Masks of kernels.h."""

    _fields_ = (
        ("num_masked", c_int64),
        ("vocab_size", c_int64),
        ("num_bytes", c_int64),
        ("rows", c_void_p),
        ("bits", c_void_p),
    )


class PackingArguments(Structure):
    """struct Packing of kernels.h."""

    _fields_ = (
        ("weight", c_void_p),
        ("stored", c_int32),
        ("format", c_int32),
        ("rows", c_void_p),
        ("num_panels", c_int64),
        ("num_inputs", c_int64),
        ("lines", c_void_p),
        ("scale", c_void_p),
    )


class LayerArguments(Structure):
    """struct Layer of kernels.h."""

    _fields_ = (
        ("qkv", POINTER(LinearArguments)),
        ("output", POINTER(LinearArguments)),
        ("gate_up", POINTER(LinearArguments)),
        ("down", POINTER(LinearArguments)),
    )


class HeadsArguments(Structure):
    """struct Heads of kernels.h."""

    _fields_ = (
        ("keys", c_int64),
        ("values", c_int64),
        ("format", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("block_size", c_int32),
        ("window", c_int32),
    )


class RowsArguments(Structure):
    """struct Rows of kernels.h."""

    _fields_ = (
        ("num_rows", c_int64),
        ("slots", c_void_p),
        ("num_computed", c_void_p),
        ("num_new", c_void_p),
        ("block_tables", c_void_p),
        ("table_stride", c_int64),
        ("num_tokens", c_int64),
    )


class ProjectionsArguments(Structure):
    """struct Projections of kernels.h."""

    _fields_ = (
        ("queries", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("query_stride", c_int64),
        ("key_stride", c_int64),
        ("value_stride", c_int64),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("write", c_void_p),
    )

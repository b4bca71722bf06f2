"""ONNX Runtime, through its C API: libraries, sessions, and runs.

All functions that call ONNX Runtime raise RuntimeError with its message, and MemoryError. Names that a
model holds in another encoding than UTF-8 come with replacement characters.
"""
cimport cython
from cpython.object cimport PyObject
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uintptr_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from libcpp cimport bool as boolean
from libcpp.memory cimport make_shared, shared_ptr, unique_ptr
from libcpp.optional cimport optional
from libcpp.pair cimport pair
from libcpp.string cimport string as cpp_string
from libcpp.utility cimport move as take_over
from libcpp.vector cimport vector

cimport core
cimport ort
from core cimport Activation, Error, ReadError, Reader, Sink, Type
from gpux._fastpath cimport (
    Block, Body, InputSpec, InputTable, Pool, device_of_block, number_text, sizes_tuple, value_error,
)
from pipeline cimport (
    Call, Disagreement, InputRule, InputTensor, KnownSection, KnownSections, NativeOutputs, NativePipeline,
    NativeRequest, NativeThreadPool, NativeWork, Output, OutputRule, OwnText, PaddedInput, Result, Step,
    Strings, Text, Unbatch, ValueKind, WatchedRun, agree, are_close, elements_of, gather, is_informative,
    is_unbatched, kNever, now, part_of,
)

import contextlib
import json
import os

from gpux._fastpath import ACTIVATIONS
from gpux.errors import (
    ClashingInputsError, DisagreementError, DuplicateInputError, InvalidBodyError, InvalidJSONError,
    InvalidValueError, UnknownInputError,
)

__all__ = [
    "Binding", "Declared", "InlinePolicy", "Outputs", "Pipeline", "Request", "RequestCounts", "Responder",
    "ResponseText", "RunOptions", "Session", "SessionOptions", "ThreadPool", "Value", "Work",
    "available_providers", "load_library", "runtime_version",
]


cdef extern from "Python.h":
    PyObject* PyBytes_FromStringAndSize(const char*, Py_ssize_t) except NULL
    char* PyBytes_AS_STRING(PyObject*) noexcept nogil
    Py_ssize_t PyBytes_GET_SIZE(PyObject*) noexcept nogil
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1
    void* PyMem_RawMalloc(size_t)
    void PyMem_RawFree(void*)
    void Py_XDECREF(PyObject*)
    char* PyByteArray_AS_STRING(PyObject*) noexcept nogil
    Py_ssize_t PyByteArray_GET_SIZE(PyObject*) noexcept nogil


cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    clockid_t CLOCK_THREAD_CPUTIME_ID
    cdef struct timespec:
        int64_t tv_sec
        long tv_nsec
    int clock_gettime(clockid_t clock, timespec* time)
    int64_t unix_time "time"(int64_t* time)


include "session.pxi"
include "pipeline.pxi"
include "work.pxi"
include "inline.pxi"
include "responder.pxi"

# Steps of a request for other threads, and the native threads that execute them: work.hpp for Python.

cdef enum:
    SHORT_COPY = 1 << 16  # bytes: a response that is copied, as an object of its own would cost as much


cdef class ResponseText:
    """A response that is too long to be copied. A read-only buffer; owns its memory."""

    cdef char* data
    cdef Py_ssize_t size

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, 1, flags)

    def __dealloc__(self):
        free(self.data)


cdef class Work:
    """One step of a request, to be executed by any thread. Made by a Pipeline.

    Keeps alive all that it works on. From ThreadPool.submit() until ThreadPool.completed() has
    returned it, only stop() may be called.

    Attributes:
        done: its caller's own; called by nothing in this module.
    """

    cdef NativeWork native
    cdef Pipeline pipeline
    cdef object subject  # the body, the requests, or the outputs
    cdef public object done

    def execute(self):
        """Executes it in the calling thread, without the GIL."""
        with nogil:
            self.native.execute()

    def stop(self):
        """Stops its run, now or as soon as it begins. No error if there is none."""
        self.native.stop.request()

    @property
    def cpu_seconds(self):
        """CPU time of the thread that executed it."""
        return self.native.cpu_time / 1e9

    @property
    def decode_seconds(self):
        return self.native.call.decode_time / 1e9

    @property
    def run_seconds(self):
        return self.native.call.run_time / 1e9

    @property
    def encode_seconds(self):
        return self.native.call.encode_time / 1e9

    @property
    def rows(self):
        """The row count of the request that was decoded."""
        return self.native.call.request.rows(self.pipeline.native.get().rules())

    def request(self):
        """The result of decoding: as of Pipeline.decode()."""
        if self.native.result != Result.done and self.native.result != Result.incomplete:
            raise self.pipeline.refusal(self.native.result, self.native.call)
        is_complete = self.native.result == Result.done
        return self.pipeline.take_request(self.native.call), is_complete

    def outputs(self):
        """The result of a run: as of Pipeline.run()."""
        if self.native.result == Result.out_of_memory and not self.native.call.outputs:
            raise self.pipeline.pool.failure()
        if self.native.result != Result.done:
            raise failure_of(self.native.result, self.native.call)
        cdef Outputs outputs = Outputs.__new__(Outputs)
        outputs.native = self.native.call.outputs
        outputs.pipeline = self.pipeline
        outputs.owner = self
        outputs.run_seconds = self.run_seconds
        return outputs

    def response(self):
        """The result of responding or encoding: as of Pipeline.respond(), or a ResponseText."""
        cdef ResponseText long_text
        if self.native.result == Result.incomplete:
            return self.pipeline.take_request(self.native.call)
        if self.native.result != Result.done:
            raise self.pipeline.refusal(self.native.result, self.native.call)
        if self.native.response.text.size <= SHORT_COPY:
            return self.native.response.text.data[:self.native.response.text.size]
        long_text = ResponseText.__new__(ResponseText)
        long_text.size = self.native.response.text.size
        long_text.data = self.native.response.release()
        return long_text


cdef class ThreadPool:
    """Native threads that execute work, for one event loop. Its methods are called by that thread.

    Args:
        threads: how many.

    Raises:
        RuntimeError: a thread cannot be started.
    """

    cdef unique_ptr[NativeThreadPool] native
    cdef set submitted  # keeps alive what the threads work on
    cdef int descriptor

    def __cinit__(self, int threads):
        self.descriptor = -1
        self.submitted = set()
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.native.reset(new NativeThreadPool(threads, self.descriptor))

    def fileno(self):
        """A descriptor that is readable while completed() has something new."""
        return self.descriptor

    def submit(self, Work work not None):
        """Has work executed, in the order of the calls."""
        work.native.owner = <void*>work
        self.submitted.add(work)
        self.native.get().submit(&work.native)

    def completed(self):
        """The work that has been completed since the last call, a list of Work."""
        cdef vector[NativeWork*] done
        cdef size_t i
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)
        done = self.native.get().completed()
        works = []
        for i in range(done.size()):
            work = <Work>done[i].owner
            self.submitted.discard(work)
            works.append(work)
        return works

    def close(self):
        """Ends the threads, once the work that they have begun is done. Drops all other work."""
        cdef NativeThreadPool* native = self.native.release()
        with nogil:
            del native
        self.submitted.clear()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __dealloc__(self):
        cdef NativeThreadPool* native = self.native.release()
        with nogil:
            del native

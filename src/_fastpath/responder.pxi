# Requests that need nothing but the model: from the bytes that came to those that go out.

cdef enum:
    MAX_STATUS = 599
    STAGES = 5  # of a request, as observability/timings.py has them
    MAX_REST = 512  # bytes: of a header section


cdef class RequestCounts:
    """Counts requests: by status, and in a histogram of each of their durations.

    A histogram of n bounds takes n + 2 values of the row: a count for each bound, one of larger
    values, and the sum of the values. Changed under the GIL, by any thread;
    any process may read the row meanwhile.

    Args:
        row: float64s, a writable buffer.
        statuses_at: index of the count of status 0.
        durations_at: of the histogram of whole requests; those of the stages follow it.
        bounds: of these histograms, in seconds, ascending.
        stages: how many there are.
        rows_at: of the histogram of row counts.
        row_bounds: its bounds.
    """

    cdef double[::1] row
    cdef Py_ssize_t statuses_at, durations_at, rows_at
    cdef vector[double] bounds, row_bounds
    cdef Py_ssize_t stages

    def __cinit__(
        self, row, *, Py_ssize_t statuses_at, Py_ssize_t durations_at, bounds, Py_ssize_t stages,
        Py_ssize_t rows_at, row_bounds,
    ):
        self.row = row
        self.statuses_at, self.durations_at, self.rows_at = statuses_at, durations_at, rows_at
        self.bounds, self.row_bounds, self.stages = bounds, row_bounds, stages
        if (
            statuses_at < 0 or statuses_at + MAX_STATUS >= durations_at
            or durations_at + (1 + stages) * (len(bounds) + 2) > rows_at
            or rows_at + len(row_bounds) + 2 > self.row.shape[0]
        ):
            raise ValueError("the parts of the row overlap, or exceed it")

    def count(self, int status, double seconds, tuple stage_seconds not None, rows=None):
        """Counts a request.

        Args:
            status: of its response, 0 to 599.
            seconds: that it took.
            stage_seconds: what each stage took, None if it was not reached.
            rows: how many ran together; None if nothing ran.

        Raises:
            ValueError: there is no such status, or another number of stages.
        """
        cdef Py_ssize_t stage
        if not 0 <= status <= MAX_STATUS or len(stage_seconds) != self.stages:
            raise ValueError(f"status {status}, and {len(stage_seconds)} stages")
        self.row[self.statuses_at + status] += 1
        self.add_duration(0, seconds)
        for stage in range(self.stages):
            if stage_seconds[stage] is not None:
                self.add_duration(1 + stage, stage_seconds[stage])
        if rows is not None:
            self.add(self.rows_at, self.row_bounds, rows)

    cdef void add_duration(self, Py_ssize_t number, double seconds) noexcept:
        """Adds to the histogram of whole requests, number 0, or to that of a stage."""
        self.add(self.durations_at + number * <Py_ssize_t>(self.bounds.size() + 2), self.bounds, seconds)

    cdef void add(self, Py_ssize_t at, const vector[double]& bounds, double value) noexcept:
        cdef size_t bucket = 0
        while bucket < bounds.size() and value > bounds[bucket]:
            bucket += 1
        self.row[at + <Py_ssize_t>bucket] += 1
        self.row[at + <Py_ssize_t>bounds.size() + 1] += value


cdef class Responder:
    """Responds to known requests in one call, from the bytes that came to those that go out.

    Known is a request whose header section was judged before, byte for byte but for the length of its
    body (known.hpp), and whose model runs inline. All others, and all that fail, are left to its
    caller, as if this had not been called. Used by the loop's thread only. It keeps the GIL: to give
    it away for so short a time would cost more than it is worth.

    Args:
        pipeline: the model's.
        policy: of its bodies.
        counts: gets the requests that are responded to; of STAGES stages.
        start: makes the first part of a response, as bytes, from the seconds since the epoch: the
            status line and the headers that all responses within a second have in common.
        rest: printf's format, in bytes, of the other headers and the empty line: it takes the
            milliseconds of each stage, those of all, and the length of the body.
        is_batched: whether the rows of a request are counted; otherwise it is one row.
    """

    cdef Pipeline pipeline
    cdef InlinePolicy policy
    cdef RequestCounts counts
    cdef object make_start
    cdef bytes start
    cdef int64_t start_second
    cdef bytes rest
    cdef KnownSections known
    cdef OwnText* text
    cdef public bint is_batched

    def __cinit__(
        self, Pipeline pipeline not None, InlinePolicy policy not None, RequestCounts counts not None,
        start, bytes rest not None, bint is_batched,
    ):
        if counts.stages != STAGES:
            raise ValueError(f"{counts.stages} stages, not {STAGES}")
        self.pipeline, self.policy, self.counts = pipeline, policy, counts
        self.make_start, self.rest, self.is_batched = start, rest, is_batched
        self.start_second = -1
        self.text = new OwnText()

    def __dealloc__(self):
        del self.text

    def remember(self, bytes before not None, bytes after not None, double timeout_seconds):
        """Makes a request known.

        Args:
            before: its header section, up to the first digit of the body's length.
            after: the rest of the section, from behind the last digit.
            timeout_seconds: when its run is stopped.
        """
        cdef KnownSection section
        section.before, section.after = before, after
        section.timeout = nanoseconds(timeout_seconds)
        self.known.remember(section)

    def respond(self, bytearray received not None, Py_ssize_t nbytes):
        """Responds to a request, if it is known.

        Args:
            received: what has come. The byte behind it is overwritten.
            nbytes: how much of that.

        Returns:
            The response with its header section; None if nothing was done.
        """
        cdef char* data = PyByteArray_AS_STRING(<PyObject*>received)
        cdef size_t at = 0
        cdef const KnownSection* section
        if not 0 < nbytes < PyByteArray_GET_SIZE(<PyObject*>received):
            return None
        section = self.known.find(data, nbytes, &at)
        if section == NULL or not self.policy.allows(<size_t>nbytes - at):
            return None
        data[nbytes] = 0
        return self.run(data + at, <size_t>nbytes - at, section.timeout)

    cdef bytes run(self, const char* body, size_t size, int64_t timeout):
        cdef Call call
        cdef Result result
        cdef int64_t began = now()
        cdef double cpu_seconds = thread_seconds()
        cdef double seconds
        self.text.text.size = 0
        result = self.pipeline.native.get().respond(
            body, size, self.pipeline.pool.native.get()[0],
            kNever if timeout == kNever else began + timeout, &self.text.text, &call,
        )
        seconds = (now() - began) / 1e9
        self.policy.note_inline(size, seconds, thread_seconds() - cpu_seconds)
        if result != Result.done:
            return None
        response = self.whole(call, seconds)
        self.count(call, seconds)
        if self.text.text.capacity > LARGE_BYTES:
            free(self.text.release())
        return response

    cdef bytes whole(self, const Call& call, double seconds):
        """The response with its header section, of the body in `text`."""
        cdef char head[MAX_REST]
        cdef int64_t second = unix_time(NULL)
        cdef Py_ssize_t start_size, size
        cdef int head_size
        cdef PyObject* made
        cdef char* data
        if second != self.start_second:
            self.start = self.make_start(second)
            self.start_second = second
        head_size = snprintf(
            head, sizeof(head), PyBytes_AS_STRING(<PyObject*>self.rest), 0.0, call.decode_time / 1e6, 0.0,
            call.run_time / 1e6, call.encode_time / 1e6, seconds * 1e3, self.text.text.size,
        )
        start_size = PyBytes_GET_SIZE(<PyObject*>self.start)
        size = self.text.text.size
        made = PyBytes_FromStringAndSize(NULL, start_size + head_size + size)
        data = PyBytes_AS_STRING(made)
        memcpy(data, PyBytes_AS_STRING(<PyObject*>self.start), start_size)
        memcpy(data + start_size, head, head_size)
        memcpy(data + start_size + head_size, self.text.text.data, size)
        response = <bytes>made
        Py_DECREF(response)  # the cast added a reference to that of `made`
        return response

    cdef void count(self, const Call& call, double seconds) noexcept:
        self.counts.row[self.counts.statuses_at + 200] += 1
        self.counts.add_duration(0, seconds)
        self.counts.add_duration(1, 0.0)  # read: with the header section
        self.counts.add_duration(2, call.decode_time / 1e9)
        self.counts.add_duration(3, 0.0)  # queue
        self.counts.add_duration(4, call.run_time / 1e9)
        self.counts.add_duration(5, call.encode_time / 1e9)
        self.counts.add(
            self.counts.rows_at, self.counts.row_bounds,
            call.request.rows(self.pipeline.native.get().rules()) if self.is_batched else 1,
        )

# Requests that run in the event loop's own thread.

cdef struct SizeClass:
    int64_t proof  # how many runs must be short in a row; 0 while the class is unknown
    int64_t missing_proof  # how many of these are missing
    double budget_seconds  # what is left of it


cdef double thread_seconds() noexcept:
    """CPU time of this thread."""
    cdef timespec time
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return time.tv_sec + time.tv_nsec / 1e9


cdef class InlinePolicy:
    """What is known of the runs of one model, by size. Changed under the GIL, by any thread.

    A size is that of a body, in bytes; sizes of the same bit length are one class. A class runs inline
    once its runs elsewhere have proved short.

    Args:
        run_seconds: a run that takes longer costs more than its way to another thread and back.
        budget_seconds: by how much inline runs may exceed that in all; each that does not exceed
            it restores a tenth of it.
        threads: that may share the work of a run, so that the loop's own is a part of it.
        first_proof: runs elsewhere that must be short before one is inline; doubled each time that
            the budget is exhausted.
    """

    cdef SizeClass classes[65]
    cdef double run_seconds
    cdef double budget_seconds
    cdef int threads
    cdef int64_t first_proof

    def __cinit__(self, *, double run_seconds, double budget_seconds, int threads, int first_proof):
        memset(self.classes, 0, sizeof(self.classes))
        self.run_seconds = run_seconds
        self.budget_seconds = budget_seconds
        self.threads = threads
        self.first_proof = first_proof

    cdef SizeClass* class_of(self, size_t size) noexcept:
        cdef size_t bits = 0
        while size >> bits:
            bits += 1
            if bits == 64:
                break
        return &self.classes[bits]

    cpdef bint allows(self, size_t size):
        """Whether a request of this size runs inline."""
        cdef const SizeClass* known = self.class_of(size)
        return known.proof > 0 and known.missing_proof <= 0

    cpdef note_inline(self, size_t size, double seconds, double cpu_seconds):
        """Records that an inline request has just run.

        Args:
            size: of the request.
            seconds: that it took.
            cpu_seconds: of the loop's thread, which uses next to none while it is interrupted.
        """
        cdef SizeClass* known = self.class_of(size)
        if seconds > self.run_seconds:  # or was it interrupted?
            seconds = min(seconds, cpu_seconds * self.threads)
        if seconds <= self.run_seconds:
            if known.budget_seconds < self.budget_seconds:
                known.budget_seconds += self.run_seconds / 10
            return
        known.budget_seconds -= seconds - self.run_seconds
        if known.budget_seconds < 0:
            known.proof = min(2 * known.proof, <int64_t>1 << 30)
            known.missing_proof = known.proof
            known.budget_seconds = self.budget_seconds

    cpdef note_elsewhere(self, size_t size, double cpu_seconds, int requests=1):
        """Records a run in another thread.

        Args:
            size: of a request in it.
            cpu_seconds: of the run.
            requests: that ran together. Such a run proves that one of them is short if all are, and
                that it is not if its share is not.
        """
        cdef SizeClass* known = self.class_of(size)
        if known.proof == 0:
            known.proof = known.missing_proof = self.first_proof
            known.budget_seconds = self.budget_seconds
        if cpu_seconds > requests * self.run_seconds:
            known.missing_proof = known.proof
        elif cpu_seconds <= self.run_seconds:
            known.missing_proof -= 1

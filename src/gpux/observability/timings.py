"""How long each stage of a request took."""

from collections.abc import Iterator
from dataclasses import dataclass

STAGES = ("read", "decode", "queue", "run", "encode")
_ALL_IN_HEADER = ", ".join(f"{name};dur=%.3f" for name in (*STAGES, "total"))


@dataclass(slots=True)
class Stages:
    """How long each stage of one request took, in seconds; None for one that it did not reach.

    Attributes:
        read: the body, from the server's buffer.
        decode: JSON to tensors.
        queue: waiting for a thread, and for the model.
        run: the model, with the copies to a GPU and back.
        encode: tensors to JSON.
        rows: of the batch that it ran in.
        thread: of `queue`, what it waited for a thread, before it was read.
    """

    read: float | None = None
    decode: float | None = None
    queue: float | None = None
    run: float | None = None
    encode: float | None = None
    rows: int | None = None
    thread: float = 0.0

    def seconds(self) -> tuple[float | None, ...]:
        """Of each of the STAGES."""
        return self.read, self.decode, self.queue, self.run, self.encode

    def taken(self) -> list[tuple[str, float]]:
        """The stages that the request reached."""
        return [
            (stage, taken)
            for stage, taken in zip(STAGES, self.seconds(), strict=True)
            if taken is not None
        ]

    def in_order(self) -> Iterator[tuple[str, float]]:
        """The same as they followed each other, the wait for a thread by itself."""
        if self.thread:
            yield "thread", self.thread
        for stage, seconds in self.taken():
            yield stage, seconds - self.thread if stage == "queue" else seconds

    def server_timing(self, seconds: float) -> str:
        """The value of a `Server-Timing` header, in milliseconds.

        Args:
            seconds: that the request took as a whole.

        Source: the W3C's Server Timing, "The Server-Timing Header Field".
        """
        reached = [taken for taken in self.seconds() if taken is not None]
        if len(reached) == len(STAGES):  # mostly
            return _ALL_IN_HEADER % tuple([taken * 1e3 for taken in (*reached, seconds)])
        entries = [f"{name};dur={taken * 1e3:.3f}" for name, taken in self.taken()]
        return ", ".join([*entries, f"total;dur={seconds * 1e3:.3f}"])

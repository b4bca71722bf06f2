"""Durations of the stages of a request."""

from dataclasses import dataclass

STAGES = ("read", "decode", "queue", "run", "encode")
# printf's format of a `Server-Timing` header with all stages, in milliseconds.
FULL_SERVER_TIMING = ", ".join(f"{name};dur=%.3f" for name in (*STAGES, "total"))


@dataclass(slots=True)
class Stages:
    """Duration of each stage of one request, in seconds; None for a stage it did not reach.

    Attributes:
        read: reading the body from the server's buffer.
        decode: JSON to tensors, and texts to token ids.
        queue: waiting for the model.
        run: running the model, with the copies to and from a GPU.
        encode: tensors to JSON.
        rows: number of rows in the batch that it ran in.
    """

    read: float | None = None
    decode: float | None = None
    queue: float | None = None
    run: float | None = None
    encode: float | None = None
    rows: int | None = None

    def seconds(self) -> tuple[float | None, ...]:
        """Returns the duration of each of the STAGES."""
        return self.read, self.decode, self.queue, self.run, self.encode

    def reached(self) -> list[tuple[str, float]]:
        """Returns the stages that the request reached, with their durations."""
        return [
            (stage, seconds)
            for stage, seconds in zip(STAGES, self.seconds(), strict=True)
            if seconds is not None
        ]

    def server_timing(self, seconds: float) -> str:
        """Formats the value of a `Server-Timing` header, in milliseconds.

        Args:
            seconds: the total duration of the request.

        Source: the W3C's Server Timing, "The Server-Timing Header Field".
        """
        durations = [duration for duration in self.seconds() if duration is not None]
        if len(durations) == len(STAGES):  # the common case
            return FULL_SERVER_TIMING % tuple(
                [duration * 1e3 for duration in (*durations, seconds)]
            )
        entries = [f"{name};dur={duration * 1e3:.3f}" for name, duration in self.reached()]
        return ", ".join([*entries, f"total;dur={seconds * 1e3:.3f}"])

"""The summary of a model that `gpux inspect` prints, and a server when it is ready."""

from gpux.inputs.model_io import TEXT, ServedInput, ServedOutput
from gpux.model import Model
from gpux.serving.engine import Engine
from gpux.tensors.signature import NonTensorSpec


def describe_engine(engine: Engine, *, verbose: bool) -> str:
    """Summarizes the model, and whether waiting requests are batched, or why not."""
    return f"{describe_model(engine.model, verbose=verbose)}\n{_batching_text(engine)}"


def describe_model(model: Model, *, verbose: bool) -> str:
    """Summarizes the model: its file, its device, and its signature as a table.

    Args:
        model: a loaded model.
        verbose: also list the nodes that fall back to the CPU.
    """
    rows = [
        *(("Input", *_columns(entry), _accepted_text(entry)) for entry in model.io.inputs),
        *(("Output", *_columns(entry), "") for entry in model.io.outputs),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(1, 4)]
    lines = [
        f"{row[0]:<9} "
        + "  ".join(f"{row[column]:<{widths[column - 1]}}" for column in range(1, 4))
        + f"  {row[4]}"
        for row in rows
    ]
    size = model.file.stat().st_size
    return "\n".join(
        [
            f"Model     {model.name} ({model.file}, {_size_text(size)})",
            f"Provider  {model.device} (onnxruntime {model.runtime_version}){_nodes_text(model)}",
            *(line.rstrip() for line in lines),
            *([_cpu_nodes_text(model)] if verbose else []),
        ]
    )


def _nodes_text(model: Model) -> str:
    """The number of nodes by provider, unless the model runs on the CPU."""
    if model.provider == "cpu" or model.placement is None:
        return ""
    counts = ", ".join(f"{len(nodes)} on {name}" for name, nodes in model.placement.items())
    return f", nodes: {counts}"


def _batching_text(engine: Engine) -> str:
    batching = engine.batching
    if batching.limits is None:
        return f"Batching  off: {batching.reason}"
    rows = batching.limits.max_rows
    text = f"Batching  on: up to {rows} rows of requests that wait run together"
    if not engine.model.signature.has_lengths:
        return text
    if batching.padding is None:
        return f"{text}\nPadding   off: {batching.padding_reason}"
    axes = " and ".join(batching.padding.axes)
    buckets = batching.padding.buckets
    return f"{text}\nPadding   on: {axes} to the next of {len(buckets)} sizes up to {buckets[-1]}"


def _cpu_nodes_text(model: Model) -> str:
    """The nodes of a model on a GPU that fall back to the CPU."""
    if model.placement is None:
        return "Nodes     ONNX Runtime does not tell where they run: 1.24 or newer does"
    if model.provider == "cpu":
        return "Nodes     all on the CPU"
    nodes = model.placement.get("cpu", [])
    return "\n".join(f"On CPU    {node}" for node in nodes) or "Nodes     none on the CPU"


def _columns(entry: ServedInput | ServedOutput) -> tuple[str, str, str]:
    spec = entry.spec
    if isinstance(spec, NonTensorSpec):
        return entry.name, spec.onnx, ""
    return entry.name, spec.type.name, spec.shape_text if spec.dims else "any shape"


def _accepted_text(entry: ServedInput) -> str:
    """Describes in words what a client may send for an input."""
    spec = entry.spec
    item = f"[{', '.join(map(str, spec.dims[1:]))}]" if spec.min_axes else spec.type.word
    accepted = {
        "batched": f"one item ({item}), or a list of them",
        "single": f"one item ({item}), with or without its leading axis",
        "fixed": "with all its axes",
        "open": "whatever the model takes",
    }[spec.kind]
    if entry.from_text:
        accepted = f"made from {TEXT}, or {accepted}"
    elif not entry.required:
        accepted += "; optional"
    return f"{spec.kind}: {accepted}"


def _size_text(size_bytes: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB"

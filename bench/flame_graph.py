"""Renders stacks as an SVG flame graph, each frame in the colour of its stage. Pure.

The width of a frame is its share of the samples; the frames that it called are drawn above it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import cycle

from profile_stages import GIL_WAIT, IDLE, OTHER, STAGES, Samples, Share, Stack, stage_of

_WIDTH, _MARGIN = 1400, 20
_ROW = 17
_LETTER = 6.7
_HEAD = 74
_NARROWEST = 0.6
_PALETTE = (
    *("#4c78a8", "#f58518", "#54a24b", "#9edae5", "#eeca3b", "#b279a2", "#9d755d", "#c7c7c7"),
    *(
        "#ff9da6",
        "#bcbd22",
        "#17becf",
        "#d8b5a5",
        "#88a0cb",
        "#98df8a",
        "#c49c94",
        "#7f7fd5",
        "#dbdb8d",
    ),
)
COLOURS = dict(zip((stage.name for stage in STAGES), cycle(_PALETTE))) | {
    GIL_WAIT: "#e45756",
    OTHER: "#d5d5d5",
}
_BETWEEN = "#eeeeee"  # frames whose descendants belong to several stages


@dataclass(slots=True)
class _Node:
    """A frame at one position of the call tree.

    Attributes:
        samples: the number of samples that contain it.
        stages: that number by stage.
        children: the frames that it called, by name.
    """

    samples: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    children: dict[str, "_Node"] = field(default_factory=dict)

    def add(self, stack: Stack, stage: str, number: int) -> None:
        """Adds `number` samples of a stack that begins at this frame."""
        node = self
        node._count(stage, number)
        for frame in stack:
            node = node.children.setdefault(frame, _Node())
            node._count(stage, number)

    def _count(self, stage: str, number: int) -> None:
        self.samples += number
        self.stages[stage] = self.stages.get(stage, 0) + number


def draw(title: str, samples: Samples, shares: Mapping[str, Share]) -> str:
    """The SVG's text.

    Args:
        title: the first line.
        samples: the stacks; idle ones are left out.
        shares: the share of each stage, for the legend.
    """
    root = _Node()
    for stack, number in samples.items():
        stage = stage_of(stack)
        if stage != IDLE:
            root.add(stack, stage, number)
    boxes = list(_boxes(root, 0, 0.0, _WIDTH - 2 * _MARGIN))
    depth = max((row for _, _, row, _, _ in boxes), default=0)
    height = _HEAD + (depth + 1) * _ROW + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="monospace" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_MARGIN}" y="24" font-family="sans-serif" font-size="16">'
        f"{escape(title)}</text>",
        *_legend(shares),
    ]
    for name, node, row, left, width in boxes:
        x, y = _MARGIN + left, height - _MARGIN - (row + 1) * _ROW
        share = node.samples / root.samples
        text = name if len(name) * _LETTER <= width else name[: max(0, int(width / _LETTER) - 1)]
        parts.append(
            f"<g><title>{escape(name)}: {share:.2%}</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 1}" rx="1" '
            f'fill="{_colour(node)}"/>'
            + (f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(text)}</text>' if len(text) > 2 else "")
            + "</g>"
        )
    return "\n".join([*parts, "</svg>\n"])


def _boxes(
    node: _Node, row: int, left: float, width: float
) -> Iterator[tuple[str, _Node, int, float, float]]:
    """Name, node, row, left and width of each visible frame, the widest first."""
    for name, child in sorted(node.children.items(), key=lambda item: -item[1].samples):
        share = width * child.samples / node.samples
        if share >= _NARROWEST:
            yield name, child, row, left, share
            yield from _boxes(child, row + 1, left, share)
        left += share


def _colour(node: _Node) -> str:
    stage = max(node.stages, key=lambda name: node.stages[name])
    return COLOURS[stage] if node.stages[stage] >= 0.9 * node.samples else _BETWEEN


def _legend(shares: Mapping[str, Share]) -> Iterator[str]:
    x, y = float(_MARGIN), 46
    for name, share in shares.items():
        text = f"{name} {share.of_all:.0%}"
        if x + len(text) * 7 > _WIDTH - _MARGIN:
            x, y = float(_MARGIN), y + 18
        yield f'<rect x="{x:.0f}" y="{y - 10}" width="11" height="11" fill="{COLOURS[name]}"/>'
        yield f'<text x="{x + 15:.0f}" y="{y}" font-family="sans-serif">{escape(text)}</text>'
        x += len(text) * 6.6 + 32

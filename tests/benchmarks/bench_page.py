"""The rows of the result, and the page and the picture that are made of them."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Row:
    """The figures of this library and another one in each round, with a limit of their ratio or of our median."""

    title: str
    unit: str
    ours: list[float]
    other: list[float] = field(default_factory=list)
    beside: str = ""
    max_ratio: float | None = None
    most: float | None = None

    def cells(self) -> list[str]:
        """Return the title, both medians, the median ratio with its quartiles, the limit and whether it holds."""
        ratios = [ours / other for ours, other in zip(self.ours, self.other, strict=False) if other > 0]
        low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else (0, 0, 0)
        other = f"{self.amount(self.other)} ({self.beside})" if self.other else ""
        spread = f"{digits(ratio)} ({digits(low)} to {digits(high)})" if ratio else ""
        cells = [self.title, self.amount(self.ours), other, spread]
        if self.max_ratio is None and self.most is None:
            return [*cells, "none", ""]
        limit = f"{self.most:g} {self.unit}" if self.max_ratio is None else f"ratio {self.max_ratio:g}"
        holds = statistics.median(self.ours) <= self.most if self.max_ratio is None else ratio <= self.max_ratio
        return [*cells, limit, "holds" if holds else "does not hold"]

    def amount(self, values: list[float]) -> str:
        return f"{digits(statistics.median(values))} {self.unit}"


def digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def as_table(rows: list[Row]) -> str:
    head = ["", "this library", "beside", "ratio (quartiles)", "limit", ""]
    lines = [head, ["---", *["---:"] * 4, "---"], *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_picture(rows: list[Row], title: str) -> str:
    """Draw two bars for each row, as SVG on a white ground."""
    longest, height = max(statistics.median(values) for row in rows for values in (row.ours, row.other)), len(rows) * 46
    parts = [f'<rect width="720" height="{height + 50}" fill="#fff"/><text x="10" y="26">{title}</text>']
    for row, top in zip(rows, range(44, height + 44, 46), strict=True):
        parts.append(f'<text x="220" y="{top + 22}" text-anchor="end">{row.title}</text>')
        bars = ((row.ours, "this library", top, "#1f6feb"), (row.other, row.beside, top + 18, "#8b949e"))
        for values, name, y, colour in bars:
            width = round(statistics.median(values) / longest * 300)
            parts.append(f'<rect x="230" y="{y}" width="{width}" height="16" fill="{colour}"/>')
            parts.append(f'<text x="{width + 236}" y="{y + 13}">{row.amount(values)}, {name}</text>')
    view = f'viewBox="0 0 720 {height + 50}" font-family="sans-serif" font-size="13"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {view}><title>{title}</title>', *parts, "</svg>\n"])


def write_page(folder: Path, parts: dict[str, str], picture: str) -> None:
    """Write performance.md, with each part between the markers that have its name, and its picture."""
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "performance.md").read_text()
    for name, text in parts.items():
        before, begin, rest = page.partition(f"<!-- measured: {name} -->\n")
        page = f"{before}{begin}\n{text}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    (folder / "performance.md").write_text(page)
    (folder / "performance_operations.svg").write_text(picture)

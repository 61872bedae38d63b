"""The figures as a chart: each figure that has a goal, a bar a subject, as a share of the longest."""

from statistics import median
from xml.sax.saxutils import escape

COLOURS = {"nginx": "#5b8c5a", "haproxy": "#3f6c9b", "envoy": "#a05fa3", "heddle": "#d9822b"}
OTHER = "#8a8a8a"
WIDTH, LEFT, BAR, LINE, TITLE, GAP = 860, 160, 580, 18, 24, 12


def _text(x, y, text, anchor="start", weight="normal", size=12):
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}">{escape(text)}</text>'


def _figure(y, row, metric):
    """A figure's bars from `y` down: (elements, where the next one begins)."""
    bars = {name: figures[metric["key"]] for name, figures in row["subjects"].items() if figures[metric["key"]] and not figures["refused"]}
    if not bars:
        return [], y
    longest = max(max(values) for values in bars.values()) or 1
    elements = [_text(8, y + 14, f"{row['title']}: {metric['label']}", weight="bold")]
    y += TITLE
    for name, values in bars.items():
        middle, at = median(values), lambda value: LEFT + BAR * max(0, value) / longest
        elements.append(_text(LEFT - 8, y + 12, name, "end"))
        elements.append(f'<rect x="{LEFT}" y="{y + 2}" width="{at(middle) - LEFT:.1f}" height="{LINE - 6}" fill="{COLOURS.get(name.split()[0], OTHER)}"/>')
        # From the least to the most.
        middle_y = y + LINE / 2 - 1
        elements.append(f'<line x1="{at(min(values)):.1f}" x2="{at(max(values)):.1f}" y1="{middle_y}" y2="{middle_y}" stroke="#222"/>')
        elements.append(_text(at(max(values)) + 6, y + 12, f"{middle:,.{metric['digits']}f}"))
        y += LINE
    return elements, y + GAP


def svg(results):
    """The whole chart as SVG."""
    elements, y = [], 40
    for row in results["rows"].values():
        with_goal = {verdict["metric"] for verdict in row["verdicts"]}
        for metric in (metric for metric in row["metrics"] if metric["key"] in with_goal):
            more, y = _figure(y, row, metric)
            elements += more
    machine = results["machine"]
    head = f"{results['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; bars are medians, lines go from least to most"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>', _text(8, 22, head, size=13), *elements, "</svg>", ""])

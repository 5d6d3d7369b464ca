"""The HTML page of a suite: one file, no script, no outside reference."""

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment

from bench.images import write_bytes
from bench.record import CellRecord, SuiteRecord, read_suite
from reports.figures import heat_map, png_data_uri, read_pair
from reports.quoted import HEADINGS, columns, quoted_rows
from reports.tables import columns_of, rows

PICTURES = 12

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ suite.id }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { display: inline-block; margin: 0 .8rem 1rem 0; }
figcaption { font-size: .8rem; }
img { image-rendering: pixelated; }
.bad { color: #c0392b; } .note { font-size: .85rem; opacity: .8; } code { font-size: .85rem; overflow-wrap: anywhere; }
</style></head><body>
<h1>{{ suite.id }}</h1>
<p>{% if suite.status != "ok" %}<strong class="bad">This suite is {{ suite.status }}; what follows is partial.</strong><br>{% endif %}
<code>{{ suite.command }}</code><br>
{{ suite.started }} to {{ suite.ended or "(not ended)" }}; {{ suite.environment.cpu }}, {{ suite.environment.cores }} cores,
device {{ suite.environment.device }}, torch {{ suite.environment.packages.torch }}{% if suite.environment.git.commit %},
commit {{ suite.environment.git.commit[:12] }}{% if suite.environment.git.dirty %} with local changes{% endif %}{% endif %}</p>
<table><thead><tr><th>cell</th><th>status</th><th>n</th><th>metrics</th>{% for heading in headings %}<th>{{ heading }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr><td>{{ row.cell }}</td><td>{{ row.status }}</td><td>{{ row.n }}</td><td>{{ row.get("metrics", "-") }}</td>
{% for heading in headings %}<td>{{ row.get(heading, "-") }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>
<p class="note">Means with 95 % bootstrap intervals over images. Validity is judged on the saved PNG by the regressor in float32;
failed samples count as not valid. Seconds are wall time of encoding, search and refinement, shared among the samples in the slots; building
the networks is apart.</p>
{% if quoted %}<table><caption>Quoted from publications, not measured here: other networks and images, metrics as in mode paper</caption>
<thead><tr><th>method</th><th>target</th>{% for key in quoted_columns %}<th>{{ quoted_headings[key] }}</th>{% endfor %}<th>source</th></tr></thead>
<tbody>{% for row in quoted %}<tr><td>{{ row.method }}</td><td>{{ row.target }}</td>
{% for key in quoted_columns %}<td>{{ row.figures.get(key, "-") }}</td>{% endfor %}<td>{{ row.label }}</td></tr>{% endfor %}</tbody></table>{% endif %}
{% for cell in cells %}<h2>{{ cell.record.id }}</h2>
{% if cell.record.error %}<p class="bad">{{ cell.record.error }}</p>{% endif %}
<table><tbody>{% for key, value in cell.facts %}<tr><td>{{ key }}</td><td>{{ value }}</td></tr>{% endfor %}</tbody></table>
{% for key, reason in cell.record.notes.items() %}<p class="note">{{ key }}: {{ reason }}</p>{% endfor %}
{% for picture in cell.pictures %}<figure><img alt="input" src="{{ picture.original }}"> <img alt="counterfactual" src="{{ picture.counterfactual }}">
<img alt="difference" src="{{ picture.difference }}"><figcaption>{{ picture.caption }}</figcaption></figure>{% endfor %}
{% endfor %}</body></html>
"""


def _pictures(folder: Path, inputs: Path) -> list[dict[str, str]]:
    """Thumbnails of samples spread over the cell, as data URIs."""
    path = folder / "samples.parquet"
    if not path.is_file():
        return []
    frame = pd.read_parquet(path)
    frame = frame[frame["failure"].isna()]
    step = max(1, len(frame) // PICTURES)
    pictures = []
    for _, row in frame.iloc[::step].head(PICTURES).iterrows():
        original, counterfactual = read_pair(row, inputs, folder / "images")
        caption = f"{row['id']}: r {row['start']:.2f} to {row['prediction']:.2f}, target {row['target']:.2f}, {row['steps']} steps"
        images = {
            "original": original,
            "counterfactual": counterfactual,
            "difference": heat_map(original, counterfactual),
        }
        pictures.append({name: png_data_uri(pixels) for name, pixels in images.items()} | {"caption": caption})
    return pictures


def _timing(value: Any) -> str:
    """A figure of the record; a dash where nothing was measured, by name where there are several."""
    if value is None or value == []:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_timing(part)}" for name, part in value.items())
    if isinstance(value, bool | str):
        return str(value)
    return "; ".join(value) if isinstance(value, list) else f"{value:.4g}"


def _facts(cell: CellRecord) -> list[tuple[str, str]]:
    facts = [(key, _timing(value)) for key, value in cell.timings.items()]
    facts += [("failures", ", ".join(f"{count} x {reason}" for reason, count in cell.failures.items()) or "none")]
    facts += [
        (f"{name} options", ", ".join(f"{k}={v}" for k, v in options.items())) for name, options in cell.options.items()
    ]
    return facts


def render(suite: SuiteRecord, folder: Path) -> str:
    """The page's HTML."""
    cells = [
        {
            "record": cell,
            "facts": _facts(cell),
            "pictures": _pictures(folder / cell.id, folder / f"inputs-{cell.dataset}"),
        }
        for cell in suite.cells
    ]
    headings = [column[0] for column in columns_of(suite.cells)]
    quoted = quoted_rows(cell.dataset for cell in suite.cells)
    template = Environment(autoescape=True).from_string(_TEMPLATE)
    return template.render(
        suite=suite,
        rows=rows(suite),
        headings=headings,
        cells=cells,
        quoted=quoted,
        quoted_columns=columns(quoted),
        quoted_headings=HEADINGS,
    )


def write_page(folder: Path) -> Path:
    """Make `report.html` in a suite's folder; returns its path.

    Raises:
        UsageError: the folder holds no record.
    """
    path = folder / "report.html"
    write_bytes(path, render(read_suite(folder), folder).encode())
    return path

"""Tables of the gates: `bench verify` and `bench compare`."""

from rich.table import Table

from bench.compare import Comparison
from bench.compare_metrics import Metric
from bench.interleave import Measured
from bench.sections import VerifyConfig
from bench.verify import VerifyRecord
from metrics.equivalence import LEVEL


def network_table(record: VerifyRecord) -> Table:
    """Per-network errors, one row a network."""
    table = Table(title=f"networks against {record.reference}, largest errors", title_justify="left")
    for heading in ("", "network", "dtype", "forward", "gradient", "cosine", "worst call", "repeats"):
        table.add_column(heading, justify="left" if heading in ("", "network", "dtype") else "right")
    for result in record.results:
        for measured in result.networks:
            cosine = "-" if measured.cosine_worst is None else f"{measured.cosine_worst:.6f}"
            call = "-" if measured.cosine_call_worst is None else f"{measured.cosine_call_worst:.6f}"
            gradient = "-" if measured.gradient_relative is None else f"{measured.gradient_relative:.1e}"
            steady = "equal" if measured.repeat_relative == 0 else f"{measured.repeat_relative:.1e}"
            table.add_row(
                f"{result.dataset} {result.method} {result.backend}",
                measured.network,
                measured.dtype.removeprefix("torch."),
                f"{measured.forward_relative:.1e}",
                gradient,
                cosine,
                call,
                steady,
            )
    return table


def verdict_table(record: VerifyRecord) -> Table:
    """End to end and the verdict, one row a cell."""
    table = Table(title="saved counterfactuals and verdicts", title_justify="left")
    headings = ("", "verdict", "images", "identical", "pixels off", "|dr| max", "gained", "lost", "steps off")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("", "verdict") else "right")
    for result in record.results:
        name = f"{result.dataset} {result.method} {result.backend}"
        found = result.end_to_end
        if found is None:
            table.add_row(name, result.verdict, *["-"] * (len(headings) - 2))
            continue
        table.add_row(
            name,
            result.verdict,
            str(found.images),
            str(found.identical),
            "-" if found.pixels_different is None else f"{found.pixels_different:.2%}",
            "-" if found.prediction_largest is None else f"{found.prediction_largest:.1e}",
            str(found.gained),
            str(found.lost),
            str(found.steps_changed),
        )
    return table


def margins_line(margins: VerifyConfig) -> str:
    """The margins, for people."""
    return (
        f"margins: success rate {margins.success_margin:g}, oracle target error {margins.target_error_margin:g}, "
        f"prediction {margins.prediction_tolerance:g} (section [verify] of the configuration)"
    )


def comparison_table(comparison: Comparison) -> Table:
    """One row a figure."""
    title = f"{comparison.new} against {comparison.base}: {comparison.verdict} ({LEVEL:.0%} intervals)"
    table = Table(title=title, title_justify="left")
    for heading in ("cell", "figure", "base", "new", "change", "interval", "verdict"):
        table.add_column(heading, justify="right" if heading in ("base", "new", "change", "interval") else "left")
    for cell in comparison.cells:
        name = cell.base if cell.new in (None, cell.base) else f"{cell.base} -> {cell.new}"
        if not cell.metrics:
            table.add_row(name, "", "", "", "", "", f"{cell.verdict}: {cell.note}")
        for metric in cell.metrics:
            note = f": {metric.note}" if metric.note else ""
            table.add_row(name, metric.name, *_figures(metric), f"{metric.verdict}{note}")
            name = ""
    return table


def rate_lines(comparison: Comparison) -> list[str]:
    """How many times more valid counterfactuals a second NEW makes: one line a cell."""
    lines = []
    for cell in comparison.cells:
        for metric in cell.metrics:
            if metric.name != "seconds per valid" or not metric.value:
                continue
            known = metric.low is not None and metric.high is not None
            interval = f" [{1 / metric.high:.2f}, {1 / metric.low:.2f}]" if known else ""
            note = f" ({metric.note})" if metric.note else ""
            lines.append(f"{cell.base} -> {cell.new}: {1 / metric.value:.2f}x{interval} valid per second{note}")
    return lines


def _figures(metric: Metric) -> tuple[str, str, str, str]:
    sign = "" if metric.measure == "ratio" else "+"
    suffix = "x" if metric.measure == "ratio" else ""

    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    interval = "-" if metric.low is None else f"[{metric.low:{sign}.3f}, {metric.high:{sign}.3f}]"
    changed = "-" if metric.value is None else f"{metric.value:{sign}.3f}{suffix}"
    return text(metric.base, ".4g"), text(metric.new, ".4g"), changed, interval


def measured_table(found: Measured) -> Table:
    """One row a phase and NEW."""
    table = Table(title=f"against {found.base}, A/B/B/A in one process, 90 % intervals", title_justify="left")
    for heading in ("", "phase", "slots", "rounds", f"{found.base} s", "new s", "ratio", "interval", "verdict"):
        table.add_column(heading, justify="left" if heading in ("", "phase", "verdict") else "right")
    for phase in found.phases:
        for name, verdict in phase.verdicts.items():
            timed, base = phase.timing.candidates[name], phase.timing.candidates[found.base]
            table.add_row(
                f"{phase.dataset} {phase.method} {name}",
                phase.phase,
                str(phase.slots),
                str(phase.timing.rounds),
                f"{base.seconds:.4g}",
                f"{timed.seconds:.4g}",
                f"{timed.ratio:.3f}x",
                "-" if timed.low is None else f"[{timed.low:.3f}, {timed.high:.3f}]",
                verdict,
            )
    return table

"""Figures to a table."""

from statistics import median

SCENARIOS = {"one_hop": "One proxy, plain HTTP/1.1", "two_hops": "Two proxies, mutual TLS 1.3 between them"}


def spread(values, digits=1):
    """`median (least–most)`."""
    if not values:
        return "–"
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def ratios(ours, theirs):
    """Of paired rounds: one ratio a round."""
    return [a / b for a, b in zip(ours, theirs) if b]


ROWS = [
    ("CPU per request, µs", "cpu_us", 1),
    ("requests/s", "rps", 0),
    ("p50 when saturated, µs", "p50_us", 0),
    ("p99 when saturated, µs", "p99_us", 0),
    ("added p50 at the fixed rate, µs", "added_p50_us", 0),
    ("added p99 at the fixed rate, µs", "added_p99_us", 0),
    ("PSS idle, MiB", "idle_mib", 1),
    ("PSS with the held connections, MiB", "held_mib", 1),
]


def comparison(subjects, peers):
    """Heddle beside each peer, round by round: ratios, and differences of latency (both are differences already)."""
    lines = []
    for label, key in (("CPU per request", "cpu_us"), ("requests/s", "rps"), ("PSS idle", "idle_mib")):
        pairs = [f"{name} {spread(ratios(subjects['heddle'][key], subjects[name][key]), 2)}" for name in peers]
        lines.append(f"- {label}, Heddle divided by: " + ", ".join(pairs))
    for label, key in (("added p50", "added_p50_us"), ("added p99", "added_p99_us")):
        pairs = [f"{name} {spread([a - b for a, b in zip(subjects['heddle'][key], subjects[name][key])], 0)}" for name in peers]
        lines.append(f"- {label}, µs, Heddle minus: " + ", ".join(pairs))
    return lines + [""]


def markdown(results):
    """The whole report."""
    settings = results["settings"]
    lines = [
        f"# Heddle and its peers, {results['date']}",
        "",
        f"{results['machine']['cpu']}, {results['machine']['cores']} cores, Linux {results['machine']['kernel']}; load average before: "
        f"{results['machine']['load']}.",
        f"{settings['rounds']} interleaved rounds of {settings['seconds']} s, {settings['connections']} connections, 1 KiB bodies; "
        f"fixed rate {settings['rate']}/s; {settings['held']} held connections. Median (least–most). Two proxies: both together.",
        "",
    ]
    for scenario, title in SCENARIOS.items():
        subjects = results["scenarios"].get(scenario)
        if not subjects:
            continue
        names = list(subjects)
        direct = results["direct"].get(scenario, {"p50_us": [], "p99_us": []})
        lines += [f"## {title}", ""]
        lines += [f"At the fixed rate the origin alone: p50 {spread(direct['p50_us'], 0)} µs, p99 {spread(direct['p99_us'], 0)} µs.", ""]
        lines += ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for label, key, digits in ROWS:
            cells = [spread(subjects[name].get(key, []), digits) if not subjects[name]["refused"] else "refused" for name in names]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        lines.append("")
        lines += [f"{name} is not compared: {subjects[name]['refused']}" for name in names if subjects[name]["refused"]]
        if "heddle" in subjects and not subjects["heddle"]["refused"]:
            lines += comparison(subjects, [name for name in names if name != "heddle" and not subjects[name]["refused"]])
    return "\n".join(lines)

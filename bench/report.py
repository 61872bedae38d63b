"""Figures to verdicts and tables."""

from statistics import median

PEERS = ("nginx", "haproxy", "haproxy h2", "envoy")

def spread(values, digits=1):
    """`median (least–most)`."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:,.{digits}f}"
    # A dash between numbers below zero would be taken for a sign.
    to = "–" if min(values) >= 0 else " to "
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}{to}{max(values):,.{digits}f})"


def _verdict(goal, metric, subjects):
    """What a goal came to: {"goal", "values", "limit", "reached", "digits"}; reached by the median. A goal whose figures were refused is not
    reached and has no values; one whose subjects did not all take part is none."""
    def usable(name):
        return name in subjects and not subjects[name]["refused"] and subjects[name][goal.metric]

    peers = [name for name in goal.against if usable(name)]
    sign = "≥" if goal.more_is_better else "≤"
    if goal.subject not in subjects or (goal.against and not any(name in subjects for name in goal.against)):
        return None
    if not usable(goal.subject) or (goal.against and not peers):
        whom = f" of {', '.join(goal.against)}" if goal.against else ""
        return {"metric": goal.metric, "subject": goal.subject, "against": None, "goal": f"{metric.label} {sign} {goal.limit:g}{whom}", "values": [],
                "limit": goal.limit, "reached": False, "digits": metric.digits}
    ours = subjects[goal.subject][goal.metric]
    if not goal.against:
        values, text = ours, f"{metric.label} {sign} {goal.limit:g}"
    else:
        # Of several peers the best one, by the median of this run.
        best = (max if goal.more_is_better else min)(peers, key=lambda name: median(subjects[name][goal.metric]))
        theirs = subjects[best][goal.metric]
        whom = best if len(goal.against) == 1 else f"the best of {', '.join(goal.against)} (here {best})"
        if goal.difference:
            values = [a - b for a, b in zip(ours, theirs)]
            text = f"{metric.label}, " + (f"at most {goal.limit:g} above {whom}" if goal.limit else f"below {whom}")
        else:
            values, text = [a / b for a, b in zip(ours, theirs) if b], f"{metric.label}, {sign} {goal.limit:g} of {whom}"
    middle = median(values)
    if goal.difference:
        reached = middle <= goal.limit if goal.limit else middle < 0
    else:
        reached = middle >= goal.limit if goal.more_is_better else middle <= goal.limit
    return {"metric": goal.metric, "subject": goal.subject, "against": best if goal.against else None, "goal": text, "values": values, "limit": goal.limit, "reached": reached,
            "digits": metric.digits if goal.difference or not goal.against else 2}


def judged(rows, measured):
    """What goes into the JSON: each row with its figures and the verdict on each of its goals."""
    result = {}
    for row in rows:
        metrics = {metric.key: metric for metric in row.metrics}
        verdicts = [_verdict(goal, metrics[goal.metric], measured[row.ident]) for goal in row.goals]
        result[row.ident] = {
            "title": row.title,
            "scenario": row.scenario,
            "metrics": [{"key": metric.key, "label": metric.label, "digits": metric.digits, "summed_up": metric.summed_up} for metric in row.metrics],
            "subjects": measured[row.ident],
            "verdicts": [verdict for verdict in verdicts if verdict],
        }
    return result


def _row(ident, row):
    names = list(row["subjects"])
    rounds = max(len(figures[row["metrics"][0]["key"]]) for figures in row["subjects"].values())
    lines = [f"## {row['title']} (`{ident}`, {rounds} round{'' if rounds == 1 else 's'})", "", "| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for metric in row["metrics"]:
        cells = ["refused" if row["subjects"][name]["refused"] else spread(row["subjects"][name][metric["key"]], metric["digits"]) for name in names]
        lines.append(f"| {metric['label']} | " + " | ".join(cells) + " |")
    lines.append("")
    for verdict in row["verdicts"]:
        state = "reached" if verdict["reached"] else "**not reached**"
        state += "" if verdict["values"] else ", for the figures were refused"
        lines.append(f"- {verdict['goal']}: {spread(verdict['values'], verdict['digits'])}, {state}")
    lines += [f"- {name} is not compared: {' '.join(figures['refused'].split())}" for name, figures in row["subjects"].items() if figures["refused"]]
    return lines + [""]


def _short(verdict):
    """`0.87 (0.85–0.88) of haproxy (≤ 0.9)`, bold where it is not reached."""
    if not verdict["values"]:
        return f"**{verdict['goal']}: refused**"
    sign = "≥" if " ≥ " in verdict["goal"] else "≤"
    seen = spread(verdict["values"], verdict["digits"])
    if verdict["against"] is None:
        text = f"{seen} ({sign} {verdict['limit']:g})"
    elif "below" in verdict["goal"]:
        text = f"{seen} to {verdict['against']} (< 0)"
    elif "above" in verdict["goal"]:
        text = f"{seen} to {verdict['against']} ({sign} {verdict['limit']:g})"
    else:
        text = f"{seen} of {verdict['against']} ({sign} {verdict['limit']:g})"
    return text if verdict["reached"] else f"**{text}**"


def summary(results):
    """One table of all: the medians of each figure that has a goal or stands beside one that has, and what the goals came to: medians, least
    and most. Bold is what is not reached."""
    lines = ["| | " + " | ".join(PEERS) + " | Heddle | goals |", "|---|" + "---|" * (len(PEERS) + 2)]
    for row in results["rows"].values():
        for metric in row["metrics"]:
            verdicts = [verdict for verdict in row["verdicts"] if verdict["metric"] == metric["key"]]
            if not verdicts and not metric.get("summed_up"):
                continue
            subject = verdicts[0]["subject"] if verdicts else "heddle"
            values = [row["subjects"].get(name, {}).get(metric["key"]) for name in (*PEERS, subject)]
            refused = [row["subjects"].get(name, {}).get("refused") for name in (*PEERS, subject)]
            cells = ["refused" if no else f"{median(value):,.{metric['digits']}f}" if value else "" for value, no in zip(values, refused)]
            lines.append(f"| {row['title']}: {metric['label']} | " + " | ".join(cells) + " | " + "; ".join(map(_short, verdicts)) + " |")
    return lines


def markdown(results):
    """The whole report."""
    settings, versions = results["settings"], results["versions"]
    lines = [
        f"# Heddle and its peers, {results['date']}",
        "",
        f"{results['machine']['cpu']}, {results['machine']['cores']} cores, Linux {results['machine']['kernel']}, TCP congestion control "
        f"{results['machine'].get('congestion_control', 'unknown')}; load average before: {results['machine']['load']}.",
        f"Interleaved rounds of {settings['seconds']} s. Median (least–most); of ratios and differences, of those of each round.",
        "Versions: " + "; ".join(f"{name}: {version}" for name, version in versions.items()) + ".",
        "",
    ]
    for ident, row in results["rows"].items():
        lines += _row(ident, row)
    verdicts = [verdict for row in results["rows"].values() for verdict in row["verdicts"]]
    lines += ["## All goals", "", *summary(results), ""]
    lines.append(f"{sum(verdict['reached'] for verdict in verdicts)} of {len(verdicts)} goals reached.")
    return "\n".join(lines)

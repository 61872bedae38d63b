"""Tests of what the bench makes of figures: `python3 bench/tests.py`."""

import sys
import unittest
import xml.dom.minidom
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

import chart  # noqa: E402
import report  # noqa: E402
import rows  # noqa: E402
from rows import Goal, Metric, Row  # noqa: E402


def figures(refused=None, **values):
    return {"errors": 0, "refused": refused, **values}


def judged(goals, subjects, metric="cpu_us"):
    row = Row("x", "X", "one", "http1", (Metric(metric, "CPU"),), None, goals)
    return report.judged([row], {"x": subjects})


def reached(goal, subjects):
    return [verdict["reached"] for verdict in judged((goal,), subjects)["x"]["verdicts"]]


class Verdicts(unittest.TestCase):
    def test_ratios_are_taken_round_by_round_and_the_median_decides(self):
        goal = Goal("cpu_us", 0.5, ("nginx",))
        subjects = {"heddle": figures(cpu_us=[4, 60, 5]), "nginx": figures(cpu_us=[10, 100, 10])}
        self.assertEqual(judged((goal,), subjects)["x"]["verdicts"][0]["values"], [0.4, 0.6, 0.5])
        self.assertEqual(reached(goal, subjects), [True])
        subjects["heddle"] = figures(cpu_us=[6, 60, 4])
        self.assertEqual(reached(goal, subjects), [False])

    def test_of_several_peers_the_best_counts(self):
        subjects = {"heddle": figures(cpu_us=[5]), "nginx": figures(cpu_us=[10]), "haproxy": figures(cpu_us=[6])}
        self.assertEqual(reached(Goal("cpu_us", 0.6, ("nginx", "haproxy")), subjects), [False])
        self.assertEqual(reached(Goal("cpu_us", 0.6, ("nginx",)), subjects), [True])
        self.assertEqual(reached(Goal("cpu_us", 0.9, ("nginx", "haproxy"), more_is_better=True), subjects), [False])

    def test_refused_figures_are_compared_with_nothing(self):
        subjects = {"heddle": figures(cpu_us=[5]), "nginx": figures("3 requests failed", cpu_us=[10])}
        self.assertEqual(reached(Goal("cpu_us", 0.6, ("nginx",)), subjects), [])
        subjects = {"heddle": figures("1 request failed", cpu_us=[5]), "nginx": figures(cpu_us=[10])}
        self.assertEqual(reached(Goal("cpu_us", 0.6, ("nginx",)), subjects), [])

    def test_differences_must_be_below_nothing_or_within_the_limit(self):
        subjects = {"heddle": figures(cpu_us=[5]), "nginx": figures(cpu_us=[5])}
        self.assertEqual(reached(Goal("cpu_us", 0, ("nginx",), difference=True), subjects), [False])
        self.assertEqual(reached(Goal("cpu_us", 1, ("nginx",), difference=True), subjects), [True])

    def test_limits_without_a_peer(self):
        self.assertEqual(reached(Goal("cpu_us", 10), {"heddle": figures(cpu_us=[10])}), [True])
        self.assertEqual(reached(Goal("cpu_us", 10), {"heddle": figures(cpu_us=[11])}), [False])


class Rows(unittest.TestCase):
    def test_goals_name_figures_and_subjects_of_their_row(self):
        for row in rows.ROWS:
            for goal in row.goals:
                self.assertIn(goal.metric, {metric.key for metric in row.metrics}, row.ident)
                self.assertLessEqual({goal.subject, *goal.against}, set(row.subjects), row.ident)


class Reports(unittest.TestCase):
    def test_the_chart_is_xml_and_the_tables_say_what_was_refused(self):
        goal = Goal("cpu_us", 0.6, ("nginx",))
        subjects = {"heddle": figures(cpu_us=[5, 7]), "nginx": figures(cpu_us=[10, 9]), "envoy": figures("<broken> & refused", cpu_us=[])}
        results = {"date": "2026-01-01T00:00:00", "machine": {"cpu": "A & B", "cores": 2, "kernel": "6", "load": [0]}, "versions": {},
                   "settings": {"seconds": 1}, "rows": judged((goal,), subjects)}
        chart_text = xml.dom.minidom.parseString(chart.svg(results)).toxml()
        self.assertEqual(chart_text.count("<rect"), 3)  # the ground and two bars
        text = report.markdown(results)
        self.assertIn("envoy is not compared: <broken> & refused", text)
        self.assertIn("0.64 (0.50–0.78), **not reached**", text)
        self.assertIn("0 of 1 goals reached", text)


if __name__ == "__main__":
    unittest.main()

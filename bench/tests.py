"""Tests of what the bench makes of figures: `python3 bench/tests.py`."""

import http.server
import sys
import threading
import time
import unittest
import xml.dom.minidom
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

import chart  # noqa: E402
import loads  # noqa: E402
import peers  # noqa: E402
import report  # noqa: E402
import rows  # noqa: E402
from peers import Target  # noqa: E402
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

    def test_refused_figures_are_compared_with_nothing_and_reach_nothing(self):
        goal = Goal("cpu_us", 0.6, ("nginx",))
        for heddle, nginx in ((None, "3 requests failed"), ("1 request failed", None)):
            subjects = {"heddle": figures(heddle, cpu_us=[5]), "nginx": figures(nginx, cpu_us=[10])}
            rows = judged((goal,), subjects)
            self.assertEqual([(verdict["reached"], verdict["values"]) for verdict in rows["x"]["verdicts"]], [(False, [])])
            table = report.summary({"rows": rows})[-1]
            self.assertIn("| refused |", table)
            self.assertIn("**CPU ≤ 0.6 of nginx: refused**", table)

    def test_a_goal_against_who_did_not_take_part_is_none(self):
        self.assertEqual(reached(Goal("cpu_us", 0.6, ("nginx",)), {"heddle": figures(cpu_us=[5])}), [])

    def test_differences_must_be_below_nothing_or_within_the_limit(self):
        subjects = {"heddle": figures(cpu_us=[5]), "nginx": figures(cpu_us=[5])}
        self.assertEqual(reached(Goal("cpu_us", 0, ("nginx",), difference=True), subjects), [False])
        self.assertEqual(reached(Goal("cpu_us", 1, ("nginx",), difference=True), subjects), [True])

    def test_limits_without_a_peer(self):
        self.assertEqual(reached(Goal("cpu_us", 10), {"heddle": figures(cpu_us=[10])}), [True])
        self.assertEqual(reached(Goal("cpu_us", 10), {"heddle": figures(cpu_us=[11])}), [False])


H2LOAD = """finished in 12.50ms, 8000.00 req/s, 8.00MB/s
requests: 100 total, 100 started, 100 done, {good} succeeded, 0 failed, 0 errored, 0 timeout
status codes: {good} 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 104.00KB (106500) total, 2.00KB (2048) headers (space savings 80.00%), 100.00KB ({data}) data
"""


class Answer(http.server.BaseHTTPRequestHandler):
    """Takes its time for a connection, none for a request; answers `length` bytes."""
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    length, connecting = loads.SMALL, 0.0

    def setup(self):
        time.sleep(self.connecting)
        super().setup()

    def do_GET(self):
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {self.length}\r\n\r\n".encode()
        self.wfile.write(head + bytes(self.length))

    def log_message(self, *_):
        pass


def at_rate(connecting=0.0, length=loads.SMALL):
    """What the generator says of a server of ours: 200 requests a second on 40 connections, half a second long."""
    handler = type("Handler", (Answer,), {"connecting": connecting, "length": length})
    # Its threads are daemons: connections that stay open hold nothing up.
    many = type("Server", (http.server.ThreadingHTTPServer,), {"request_queue_size": 64})
    with many(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            return loads.at_rate(Target(server.server_address[1]), "/1k", 200, 0.5, 40)
        finally:
            server.shutdown()


class Loads(unittest.TestCase):
    def test_h2load_answers_without_a_body_are_errors(self):
        for good, data, errors in ((100, 102900, 0), (100, 0, 100), (98, 98 * 1029, 2), (100, 99 * 1029, 1), (100, 102899, 1)):
            with mock.patch.object(loads, "_output", return_value=H2LOAD.format(good=good, data=data)):
                self.assertEqual(loads.http2(Target(1), "/bench.Echo/Unary", 100, 1, 1)["errors"], errors)

    def test_wrk_answers_that_are_too_short_are_errors(self):
        seen = {"requests": 10, "errors": 0, "bytes": 9 * 1024}
        with mock.patch.object(loads, "_json_line", return_value=seen):
            self.assertEqual(loads.http1(Target(1), "/1k", 1, 1)["errors"], 1)

    def test_the_fixed_rate_is_of_connections_that_are_made_already(self):
        loads.build()
        seen = at_rate(connecting=1.0)
        self.assertEqual(seen["errors"], 0)
        self.assertGreater(seen["requests"], 20)
        self.assertLess(seen["max_us"], 900_000)

    def test_the_fixed_rate_refuses_answers_of_another_length(self):
        loads.build()
        seen = at_rate(length=10)
        self.assertEqual(seen["requests"], 0)
        self.assertGreater(seen["errors"], 20)


class Configurations(unittest.TestCase):
    def test_whoever_carries_large_bodies_in_plain_may_splice_them(self):
        kinds = {row.kind for row in rows.ROWS if row.sample is rows.large_bodies and row.scenario == "one"}
        self.assertEqual(kinds, {"http1", "tcp"})
        for kind in kinds:
            self.assertIn("option splice-auto", peers.HAPROXY_OPTIONS[kind])


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
        self.assertIn("**0.64 (0.50–0.78) of nginx (≤ 0.6)**", text)
        self.assertIn("0 of 1 goals reached", text)

    def test_the_last_table_has_spreads_below_zero_and_figures_beside_goals(self):
        row = Row("x", "X", "one", "http1", (Metric("added_p50_us", "added", 0), Metric("rss", "RSS", summed_up=True), Metric("rps", "rate")), None,
                  (Goal("added_p50_us", 0, ("nginx",), difference=True),))
        subjects = {name: figures(added_p50_us=values, rss=[6.0], rps=[1]) for name, values in (("heddle", [10, 20]), ("nginx", [40, 30]))}
        table = report.summary({"rows": report.judged([row], {"x": subjects})})
        self.assertEqual(table[2:], ["| X: added | 35 |  |  |  | 15 | -20 (-30 to -10) to nginx (< 0) |", "| X: RSS | 6.0 |  |  |  | 6.0 |  |"])


if __name__ == "__main__":
    unittest.main()

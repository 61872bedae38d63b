"""Tests of what the bench makes of figures: `python3 bench/tests.py`."""

import contextlib
import hashlib
import http.client
import http.server
import importlib.machinery
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import xml.dom.minidom
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

import chart  # noqa: E402
import heddle  # noqa: E402
import loads  # noqa: E402
import peers  # noqa: E402
import report  # noqa: E402
import rows  # noqa: E402
import scenarios  # noqa: E402
from measure import Failure  # noqa: E402
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
        self.server.answered.append(self.length)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {self.length}\r\n\r\n".encode()
        self.wfile.write(head + bytes(self.length))

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(handler):
    """Where a server of ours answers, and a list that grows with each answer."""
    # Its threads are daemons: connections that stay open hold nothing up.
    # Who leaves in the middle of something is no error.
    options = {"request_queue_size": 64, "answered": [], "handle_error": lambda *_: None}
    many = type("Server", (http.server.ThreadingHTTPServer,), options)
    with many(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Target(server.server_address[1]), server.answered
        finally:
            server.shutdown()


def at_rate(warm=0, **attributes):
    """What the generator says of such a server, 200 requests a second on 40 connections, half a second long, and how many the server answered."""
    handler = type("Handler", (Answer,), attributes)
    with served(handler) as (target, answered):
        return loads.at_rate(target, "/1k", 200, 0.5, 40, warm=warm), len(answered)


class Loads(unittest.TestCase):
    def test_h2load_answers_without_a_body_are_errors(self):
        for good, data, errors in ((100, 102900, 0), (100, 0, 100), (98, 98 * 1029, 2), (100, 99 * 1029, 1), (100, 102899, 1), (100, 102901, 1)):
            with mock.patch.object(loads, "_output", return_value=H2LOAD.format(good=good, data=data)):
                self.assertEqual(loads.http2(Target(1), "/bench.Echo/Unary", 100, 1, 1)["errors"], errors)

    def test_wrk_answers_of_another_length_are_errors(self):
        each = 150 + loads.SMALL
        # Ten answers on four connections; at the end up to four more are under way.
        for read, errors in ((10 * each, 0), (14 * each, 0), (10 * each - 1, 1), (14 * each + 1, 1), (10 * (150 + 900), 2), (0, 10)):
            seen = {"requests": 10, "errors": 0, "bytes": read}
            with mock.patch.object(loads, "_json_line", return_value=seen):
                self.assertEqual(loads.http1(Target(1), "/1k", 1, 4, each)["errors"], errors, read)

    @unittest.skipUnless(shutil.which("wrk"), "wrk is not installed")
    def test_wrk_notices_a_server_that_answers_900_bytes(self):
        with served(Answer) as (target, _):
            each = loads.answer_length(target, "/1k")
            self.assertEqual(loads.http1(target, "/1k", 1, 4, each)["errors"], 0)
        with served(type("Handler", (Answer,), {"length": 900})) as (target, _):
            self.assertGreater(loads.http1(target, "/1k", 1, 4, each)["errors"], 0)
            with self.assertRaisesRegex(Failure, "not 200 with 1024 bytes"):
                loads.answer_length(target, "/1k")

    def test_the_fixed_rate_is_of_connections_that_are_made_already(self):
        loads.build()
        seen, _ = at_rate(connecting=1.0)
        self.assertEqual(seen["errors"], 0)
        self.assertGreater(seen["requests"], 20)
        self.assertLess(seen["max_us"], 900_000)

    def test_the_fixed_rate_refuses_answers_of_another_length(self):
        loads.build()
        seen, _ = at_rate(length=10)
        self.assertEqual(seen["requests"], 0)
        self.assertGreater(seen["errors"], 20)


    def test_the_warm_up_does_not_count_but_its_errors_do(self):
        loads.build()
        seen, answered = at_rate(warm=1)
        # 40 first requests, 200 of the warm-up and 100 that count, on the average.
        self.assertGreater(answered - 40 - seen["requests"], 100)
        self.assertLess(seen["requests"], 160)
        seen, answered = at_rate(warm=1, length=10)
        self.assertEqual((seen["requests"], seen["errors"]), (0, answered))


def command():
    """The program `bench/run` as a module."""
    loader = importlib.machinery.SourceFileLoader("bench_run", str(Path(__file__).resolve().parent / "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
    loader.exec_module(module)
    return module


class Refusals(unittest.TestCase):
    BROKEN = (Failure("why"), ConnectionResetError("why"), http.client.RemoteDisconnected("why"), http.client.BadStatusLine("why"),
              subprocess.TimeoutExpired("why", 1), FileNotFoundError("why"), ZeroDivisionError("why"))

    def measured(self, start):
        """What comes of a row of two subjects, of which `nginx` is what is given and `heddle` is good; both were started by a stage."""
        stage = scenarios.Stage.__new__(scenarios.Stage)
        stage.origin, stage._subjects, stage._meshes = None, {}, {}
        running = {"nginx": start, "heddle": mock.Mock(sample=lambda: {"errors": 0, "cpu_us": 5})}
        row = Row("x", "X", "one", "http1", (Metric("cpu_us", "CPU"),), lambda subject, _: subject.sample(), (), ("nginx", "heddle"), (1, 1))
        options = mock.Mock(subjects=["nginx", "heddle"], quick=False, rounds=None, seconds=1)

        def started(_stage, _scenario, _kind, name):
            if isinstance(running[name], BaseException):
                raise running[name]
            return running[name]

        program = command()
        with mock.patch.object(scenarios.Stage, "_start", started), mock.patch.object(scenarios, "say"), mock.patch.object(program, "say"):
            seen = program.measure_row(row, stage, options)
            stage.clear()
        return seen

    def test_whatever_breaks_at_the_start_or_while_measured_is_refused_and_the_others_go_on(self):
        for broken in self.BROKEN:
            for start in (broken, mock.Mock(sample=mock.Mock(side_effect=broken))):
                seen = self.measured(start)
                self.assertIn("why", seen["nginx"]["refused"])
                self.assertEqual((seen["heddle"]["refused"], seen["heddle"]["cpu_us"]), (None, [5]))

    def test_an_envoy_that_cannot_be_installed_is_a_failure_with_a_way_out(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(peers, "SCRATCH", Path(folder)), \
                mock.patch("subprocess.run", return_value=mock.Mock(returncode=1)), self.assertRaisesRegex(Failure, "python3-venv"):
            peers.envoy_binary()


class Programs(unittest.TestCase):
    """Which Heddle is measured."""

    def test_a_program_that_is_given_is_told_by_its_digest(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.multiple(heddle, _binary=None, _built=None):
            program = Path(folder) / "heddle"
            program.write_text("#!/bin/sh\necho heddle 1\n")
            program.chmod(0o755)
            heddle.build(mock.Mock(heddle=program, pgo=False), True)
            digest = hashlib.sha256(program.read_bytes()).hexdigest()[:12]
            self.assertEqual(heddle.version(), f"heddle 1 (given, SHA-256 {digest})")
            self.assertFalse(heddle.built_as("release"))

    def test_one_that_was_built_is_told_by_commit_changes_and_profile(self):
        for changes, words in (("", ""), (" M README.md", " with uncommitted changes")):
            answers = [mock.Mock(stdout=text) for text in ("heddle 1\n", "0123456789ab\n", changes)]
            with mock.patch.multiple(heddle, _binary="x", _built="dist"), mock.patch("subprocess.run", side_effect=answers):
                self.assertEqual(heddle.version(), f"heddle 1 (commit 0123456789ab{words}, dist)")

    def test_a_program_is_given_or_built(self):
        with self.assertRaisesRegex(Failure, "leave one of them out"):
            heddle.build(mock.Mock(heddle=Path("/bin/true"), pgo=True), True)


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

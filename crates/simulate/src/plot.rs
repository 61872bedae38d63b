//! Small plots as SVG, without scripts or fonts of their own.

use std::fmt::Write;

use crate::{Algorithm, Outcome, Scenario};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 330.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = HEIGHT - 36.0;
const LEFT: f64 = 56.0;

/// Points of a line of latencies.
const STEPS: u32 = 48;

/// The percentiles that are named on the axis.
const NAMED: [(f64, &str); 6] =
    [(0.5, "50"), (0.9, "90"), (0.95, "95"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99 %")];

/// The area of one plot.
#[derive(Clone, Copy)]
struct Area {
    left: f64,
    right: f64,
}

/// Latencies by percentile, and where servers are marked, the share of requests that went to them over time. About 10 kB.
pub fn svg(scenario: &Scenario, outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n<text x=\"{LEFT}\" y=\"18\" \
         font-size=\"14\">{}: {}</text>\n",
        escape(scenario.name),
        escape(scenario.title),
    );
    let marked = !scenario.marked.is_empty();
    let legend = WIDTH - 110.0;
    let first = Area { left: LEFT, right: if marked { 400.0 } else { legend - 20.0 } };
    latencies(&mut text, first, outcomes);
    if marked {
        let second = Area { left: 456.0, right: legend - 20.0 };
        shares(&mut text, second, scenario, outcomes);
    }
    for (row, outcome) in (0..).zip(outcomes) {
        let y = TOP + 12.0 + 18.0 * f64::from(row);
        let (colour, width) = style(outcome.algorithm);
        let _ = writeln!(
            text,
            "<path d=\"M{legend} {:.0}h18\" stroke=\"{colour}\" stroke-width=\"{width}\"/><text x=\"{:.0}\" y=\"{y:.0}\">{}</text>",
            y - 4.0,
            legend + 24.0,
            outcome.algorithm.name(),
        );
    }
    text.push_str("</svg>\n");
    text
}

/// Both axes are logarithmic: time, and how many requests took longer.
fn latencies(text: &mut String, area: Area, outcomes: &[Outcome]) {
    let finite = |share: f64| outcomes.iter().map(move |o| o.percentile(share)).filter(|ms| ms.is_finite());
    let most = finite(0.9999).chain(finite(0.99)).chain(finite(0.5)).fold(1.0, f64::max);
    let least = finite(0.5).fold(most, f64::min);
    let (low, high) = (least.log10().floor(), most.log10().ceil().max(least.log10().floor() + 1.0));
    let y = |ms: f64| BOTTOM - (ms.max(1e-6).log10() - low) / (high - low) * (BOTTOM - TOP);
    let nines = |share: f64| -(1.0 - share).log10();
    let (from, to) = (nines(0.5), nines(0.9999));
    let x = |share: f64| area.left + (nines(share) - from) / (to - from) * (area.right - area.left);
    for power in low as i32..=high as i32 {
        let ms = 10f64.powi(power);
        let label = if ms < 1000.0 { format!("{ms} ms") } else { format!("{} s", ms / 1000.0) };
        rule(text, area, y(ms), &label);
    }
    for (share, label) in NAMED {
        below(text, x(share), label);
    }
    for outcome in outcomes.iter().rev() {
        let mut points = String::new();
        for step in 0..=STEPS {
            let share = 1.0 - 10f64.powf(-(from + (to - from) * f64::from(step) / f64::from(STEPS)));
            let ms = outcome.percentile(share);
            // What failed is beyond every time.
            let at = if ms.is_finite() { y(ms) } else { TOP };
            let _ = write!(points, "{:.0},{:.0} ", x(share), at);
        }
        line(text, outcome.algorithm, &points);
    }
}

fn shares(text: &mut String, area: Area, scenario: &Scenario, outcomes: &[Outcome]) {
    let seconds = outcomes.iter().map(|o| o.marked_share.len()).max().unwrap_or(1).max(2);
    let most = outcomes.iter().flat_map(|o| &o.marked_share).fold(0.01f32, |most, share| most.max(*share));
    let high = [0.02, 0.05, 0.1, 0.2, 0.5].into_iter().find(|step| f64::from(most) <= *step).unwrap_or(1.0);
    let y = |share: f64| BOTTOM - share / high * (BOTTOM - TOP);
    let x = |second: usize| area.left + second as f64 / (seconds - 1) as f64 * (area.right - area.left);
    for part in 0..=4 {
        let share = high * f64::from(part) / 4.0;
        rule(text, area, y(share), &format!("{:.1} %", share * 100.0));
    }
    for part in 0..=3 {
        let second = (seconds - 1) * part / 3;
        below(text, x(second), &format!("{second} s"));
    }
    let _ = writeln!(
        text,
        "<text x=\"{}\" y=\"36\" fill=\"#555\">share of requests sent to {}</text>",
        area.left,
        escape(scenario.mark)
    );
    for outcome in outcomes.iter().rev() {
        let mut points = String::new();
        for (second, share) in outcome.marked_share.iter().enumerate().take(seconds - 1) {
            let _ = write!(points, "{:.0},{:.0} ", x(second), y(f64::from(*share)));
        }
        line(text, outcome.algorithm, &points);
    }
}

fn rule(text: &mut String, area: Area, y: f64, label: &str) {
    let _ = writeln!(
        text,
        "<path d=\"M{:.0} {y:.0}H{:.0}\" stroke=\"#ddd\"/><text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\" fill=\"#555\">{label}</text>",
        area.left,
        area.right,
        area.left - 5.0,
        y + 4.0,
    );
}

fn below(text: &mut String, x: f64, label: &str) {
    let y = BOTTOM + 16.0;
    let _ = writeln!(text, "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"middle\" fill=\"#555\">{label}</text>");
}

fn line(text: &mut String, algorithm: Algorithm, points: &str) {
    let (colour, width) = style(algorithm);
    let points = points.trim_end();
    let _ =
        writeln!(text, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>");
}

/// Colours that people with any sight tell apart (after Okabe and Ito), and how thick.
fn style(algorithm: Algorithm) -> (&'static str, f64) {
    match algorithm {
        Algorithm::Fastest => ("#d55e00", 3.0),
        Algorithm::Hedged => ("#f0a070", 1.5),
        Algorithm::Prequal => ("#0072b2", 1.5),
        Algorithm::PeakEwma => ("#009e73", 1.5),
        Algorithm::C3 => ("#cc79a7", 1.5),
        Algorithm::LeastRequest => ("#56b4e9", 1.5),
        Algorithm::LeastLoaded => ("#e69f00", 1.5),
        Algorithm::Weighted => ("#8a6d3b", 1.2),
        Algorithm::RoundRobin => ("#777777", 1.2),
        Algorithm::Random => ("#bbbbbb", 1.2),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

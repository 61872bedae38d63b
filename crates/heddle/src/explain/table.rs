//! An explanation for people.

use std::fmt::Write;

use super::model::{Backend, Candidate, Explanation, Setting, Verdict};
use crate::console::table;

/// All of it. `from`: whose sidecar was asked.
pub(crate) fn show(explanation: &Explanation, from: &str) -> String {
    let mut text =
        format!("{}:{} ({}), as {from} would call it\n", explanation.service, explanation.port, explanation.protocol);
    if !explanation.routes.is_empty() {
        text.push_str("\nRoutes, in the order in which they are tried\n");
        text.push_str(&routes(explanation));
    }
    match (explanation.rule.as_deref(), explanation.routes.is_empty()) {
        (Some(""), true) => text.push_str("\nno routes: every request goes to the service's own instances\n"),
        (Some(""), false) => text.push_str("\nno route for this request: it goes to the service's own instances\n"),
        (None, true) => text.push_str("\nno routes\n"),
        _ => {}
    }
    if !explanation.policies.is_empty() {
        text.push_str("\nWhat holds for the request\n");
        text.push_str(&settings(&explanation.policies));
    }
    if let Some(answer) = &explanation.answer {
        let _ = writeln!(text, "\nThe sidecar answers by itself: {answer}");
    }
    for backend in &explanation.backends {
        text.push_str(&of_backend(backend));
    }
    text
}

fn routes(explanation: &Explanation) -> String {
    let rows: Vec<Vec<String>> = explanation
        .routes
        .iter()
        .map(|route| {
            let verdict = match route.verdict {
                Verdict::Taken => "taken".to_owned(),
                Verdict::Outranked => "fits too, but comes later".to_owned(),
                Verdict::Misfit => format!("no: {}", route.why),
            };
            vec![route.rule.clone(), route.fits.clone(), verdict]
        })
        .collect();
    table(&["RULE", "FITS", "VERDICT"], &rows)
}

fn settings(settings: &[Setting]) -> String {
    let rows: Vec<Vec<String>> =
        settings.iter().map(|s| vec![s.field.clone(), s.value.clone(), s.from.clone()]).collect();
    table(&["SETTING", "VALUE", "FROM"], &rows)
}

fn of_backend(backend: &Backend) -> String {
    let share = format!("{:.0} % of the requests", backend.share * 100.0);
    if let Some(why) = &backend.invalid {
        return format!("\n{share}: answered 500, for {why}\n");
    }
    let mut text = format!("\n{share} to {}, by {}", backend.service, backend.algorithm);
    if let Some(key) = &backend.key {
        let _ = write!(text, " with {key}");
    }
    text.push('\n');
    text.push_str(&settings(&backend.policies));
    if backend.candidates.is_empty() {
        text.push_str("\nit has no instances: 503 no_endpoint\n");
        return text;
    }
    let shown = backend.candidates.len();
    if shown < backend.instances {
        let _ = writeln!(text, "\nthe likeliest {shown} of {} instances", backend.instances);
    } else {
        text.push('\n');
    }
    let rows: Vec<Vec<String>> = backend.candidates.iter().map(row).collect();
    text.push_str(&table(
        &[
            "INSTANCE",
            "CHANCE",
            "COST",
            "LATENCY",
            "IN FLIGHT",
            "ELSEWHERE",
            "FAILING",
            "OVERDUE",
            "CONNECT",
            "WEIGHT",
            "SILENT",
            "WHERE",
            "STANDING",
        ],
        &rows,
    ));
    if let Some(any) = backend.candidates.first() {
        let (least, spread, idle) = (micros(any.assumed), number(any.spread), number(any.idle));
        let _ = writeln!(text, "of all: least latency {least}, spread {spread}, idle {idle}");
    }
    text
}

fn row(candidate: &Candidate) -> Vec<String> {
    let name = candidate.instance.split_once('/').map_or(candidate.instance.as_str(), |(_, name)| name);
    let latency = match candidate.latency {
        Some(latency) => micros(latency),
        None => format!("({})", micros(candidate.assumed)),
    };
    vec![
        name.to_owned(),
        format!("{:.1} %", candidate.probability * 100.0),
        micros(candidate.cost),
        latency,
        candidate.in_flight.to_string(),
        format!("{:.1}", candidate.elsewhere),
        format!("{:.0} %", candidate.failing * 100.0),
        if candidate.overdue > 1.0 { format!("{:.1}", candidate.overdue) } else { "-".to_owned() },
        if candidate.connecting > 0.0 { micros(candidate.connecting) } else { "-".to_owned() },
        number(candidate.weight),
        format!("{} of {}", micros(candidate.silence), micros(candidate.patience)),
        place(candidate),
        standing(candidate),
    ]
}

fn place(candidate: &Candidate) -> String {
    match (candidate.locality.as_str(), candidate.priority) {
        ("", 0) => "-".to_owned(),
        ("", priority) => format!("priority {priority}"),
        (locality, 0) => format!("{locality} ({})", near(candidate)),
        (locality, priority) => format!("{locality} ({}), priority {priority}", near(candidate)),
    }
}

fn near(candidate: &Candidate) -> String {
    match candidate.nearness.as_str() {
        "elsewhere" => "elsewhere".to_owned(),
        same => format!("same {same}"),
    }
}

fn standing(candidate: &Candidate) -> String {
    match (candidate.standing.as_str(), candidate.back_in) {
        ("usable", _) if candidate.trial => "usable, due for a trial".to_owned(),
        ("leftOut", Some(back)) => format!("left out for {}", micros(back)),
        ("panic", _) => "left out, but too few others are usable".to_owned(),
        ("notReady", _) => "not ready".to_owned(),
        (other, _) => other.to_owned(),
    }
}

/// With three decimals at most.
fn number(number: f64) -> String {
    format!("{number:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Microseconds in the unit that shows three figures.
fn micros(micros: f64) -> String {
    match micros {
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e4 => format!("{:.1} ms", us / 1e3),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Route;
    use super::*;

    #[test]
    fn people_see_what_is_taken_and_why_not_the_others() {
        let route = |rule: &str, verdict, why: &str| Route {
            rule: format!("HTTPRoute/shop/cart/{rule}"),
            fits: "any path".to_owned(),
            verdict,
            why: why.to_owned(),
        };
        let explanation = Explanation {
            service: "shop/cart".to_owned(),
            port: 80,
            protocol: "http".to_owned(),
            routes: vec![
                route("new", Verdict::Misfit, "no header x-user=a"),
                route("main", Verdict::Taken, ""),
                route("late", Verdict::Outranked, ""),
            ],
            rule: Some("HTTPRoute/shop/cart/main".to_owned()),
            backends: vec![Backend {
                service: String::new(),
                share: 0.25,
                invalid: Some("there is no service shop/gone".to_owned()),
                algorithm: String::new(),
                key: None,
                policies: Vec::new(),
                candidates: Vec::new(),
                instances: 0,
            }],
            ..Explanation::default()
        };
        let text = show(&explanation, "shop/web-0");
        for part in [
            "shop/cart:80 (http), as shop/web-0 would call it",
            "shop/cart/new   any path  no: no header x-user=a",
            "shop/cart/main  any path  taken",
            "shop/cart/late  any path  fits too, but comes later",
            "25 % of the requests: answered 500, for there is no service shop/gone",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        // A rule of opaque connections is a route as well; where a gateway has none for a request, nothing goes anywhere.
        let none = Explanation { rule: None, routes: Vec::new(), ..explanation.clone() };
        assert!(show(&none, "a").contains("\nno routes\n"), "{}", show(&none, "a"));
        let own = Explanation { rule: Some(String::new()), ..none };
        assert!(show(&own, "a").contains("no routes: every request goes to the service's own"), "{}", show(&own, "a"));
        let not_http = Explanation { routes: vec![route("tcp", Verdict::Misfit, "HTTP")], ..own };
        assert!(show(&not_http, "a").contains("no route for this request"), "{}", show(&not_http, "a"));
        assert_eq!((number(0.25).as_str(), number(3.0).as_str(), number(10.0).as_str()), ("0.25", "3", "10"));
        assert_eq!((micros(999.4), micros(1500.0), micros(2e6)), ("999 us".into(), "1.5 ms".into(), "2.0 s".into()));
    }
}

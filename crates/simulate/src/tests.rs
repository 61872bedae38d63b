//! The simulator itself.

use engine::{Nanos, Rng};

use crate::{Algorithm, Distribution, Fault, Scenario, ServerSpec, plot, run, scenarios, table};

fn small() -> Scenario {
    let mut scenario = scenarios().remove(0).shortened(0.05);
    scenario.name = "small";
    scenario
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    for algorithm in Algorithm::ALL {
        let (a, b) = (run(&small(), algorithm, 7), run(&small(), algorithm, 7));
        assert_eq!((a.latencies, &a.sent), (b.latencies, &b.sent), "{}", algorithm.name());
        assert_ne!(run(&small(), algorithm, 8).sent, a.sent, "{}", algorithm.name());
    }
}

#[test]
fn every_algorithm_sees_the_same_requests_and_loses_none() {
    let counts: Vec<usize> = Algorithm::ALL.map(|algorithm| run(&small(), algorithm, 3).latencies.len()).to_vec();
    assert!(counts.iter().all(|count| *count == counts[0] && *count > 2_000), "{counts:?}");
}

/// A single core that is busy half of the time: the mean time in an M/M/1 queue is work / (1 - load).
#[test]
fn a_queue_behaves_as_theory_says() {
    let mut scenario = small();
    scenario.length = Nanos::from_millis(400_000);
    scenario.rates = vec![(Nanos(0), 50.0)];
    scenario.routes[0].times = Distribution::Exponential(10.0);
    scenario.servers = vec![ServerSpec::sound(1)];
    let outcome = run(&scenario, Algorithm::Random, 1);
    let mean = outcome.latencies.iter().map(|ms| f64::from(*ms)).sum::<f64>() / outcome.latencies.len() as f64;
    // Half a millisecond is the network's.
    assert!((mean - 20.5).abs() < 1.0, "{mean}");
}

#[test]
fn speeds_and_pauses_stretch_what_is_under_way() {
    let mut scenario = small();
    scenario.rates = vec![(Nanos(0), 0.01)];
    scenario.length = Nanos::from_millis(1_000_000);
    scenario.routes[0].times = Distribution::Constant(100.0);
    let of = |server: ServerSpec| {
        let scenario = Scenario { servers: vec![server], ..scenario.clone() };
        f64::from(*run(&scenario, Algorithm::Random, 1).latencies.last().expect("the first comes at once"))
    };
    assert!((of(ServerSpec::sound(1)) - 100.5).abs() < 0.01);
    assert!((of(ServerSpec::sound(1).with(0.0, 1e4, Fault::Speed(0.5))) - 200.5).abs() < 0.01);
    // The only request comes at once: half of its work is done before the pause.
    let paused = of(ServerSpec::sound(1).with(0.05, 0.25, Fault::Speed(0.0)));
    assert!((paused - 300.5).abs() < 1.0, "{paused}");
}

#[test]
fn distributions_have_the_mean_that_they_say() {
    let mut rng = Rng::seeded(1);
    for times in [
        Distribution::Constant(3.0),
        Distribution::Exponential(10.0),
        Distribution::LogNormal { median: 167.0, sigma: 0.4 },
        Distribution::Recorded(vec![1.0, 2.0, 6.0]),
    ] {
        let mean = (0..100_000).map(|_| times.draw(&mut rng)).sum::<f64>() / 100_000.0;
        assert!((mean / times.mean() - 1.0).abs() < 0.02, "{times:?}: {mean}");
    }
}

#[test]
fn recorded_times_are_read_and_what_is_wrong_is_named() {
    assert_eq!(Distribution::recorded("# ms\n1.5\n\n 2 \n"), Ok(Distribution::Recorded(vec![1.5, 2.0])));
    for (text, line, what) in [
        ("1\nx\n", 2, "`x`"),
        ("-1", 1, "`-1`"),
        ("NaN", 1, "`NaN`"),
        ("1e99", 1, "`1e99`"),
        ("", 0, "no time"),
        ("# nothing\n", 0, "no time"),
    ] {
        let error = Distribution::recorded(text).expect_err(text);
        assert_eq!(error.line, line, "{text}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn scenarios_have_names_of_their_own_and_marks_that_exist() {
    let all = scenarios();
    let mut names: Vec<_> = all.iter().map(|scenario| scenario.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len());
    for scenario in &all {
        assert!(scenario.marked.iter().all(|(_, end, from, until)| *end <= scenario.servers.len() && from < until));
        assert!(!scenario.about.is_empty() && !scenario.rates.is_empty() && !scenario.routes.is_empty());
    }
}

#[test]
fn tables_and_plots_show_every_algorithm_and_failures() {
    let scenario = scenarios().into_iter().find(|s| s.name == "antagonists").expect("it is there").shortened(0.02);
    let mut scenario = Scenario { timeout: Some(Nanos::from_millis(8)), ..scenario };
    scenario.marked = vec![(0, 1, Nanos(0), Nanos::from_millis(1_000))];
    let outcomes = Algorithm::ALL.map(|algorithm| run(&scenario, algorithm, 1));
    let (text, svg) = (table(&scenario, &outcomes), plot::svg(&scenario, &outcomes));
    for algorithm in Algorithm::ALL {
        assert!(text.contains(algorithm.name()) && svg.contains(algorithm.name()), "{}", algorithm.name());
    }
    assert!(text.contains("failed"), "{text}");
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.len() < 20_000, "{}", svg.len());
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

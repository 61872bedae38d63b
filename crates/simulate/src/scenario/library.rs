//! The scenarios that are published.

use engine::{Nanos, Rng};

use super::{Fault, Route, Scenario, ServerSpec};
use crate::distribution::{Distribution, unit};
use crate::server::millis;

const FOREVER: f64 = 1e6;

/// All scenarios, the two published by others first.
pub fn scenarios() -> Vec<Scenario> {
    vec![
        finagle(),
        antagonists(),
        one_slow(),
        overloaded_neighbour(),
        failing_fast(),
        half_failing(),
        rate_limited(),
        collecting(),
        unequal(),
        herd(),
        cold(),
        churn(),
        flapping(),
        two_routes(),
        sparse(),
        stalling(),
    ]
}

fn seconds(s: f64) -> Nanos {
    millis(s * 1e3)
}

fn base(name: &'static str, title: &'static str, about: &'static str) -> Scenario {
    Scenario {
        name,
        title,
        about,
        length: seconds(60.0),
        rates: vec![(Nanos(0), 1_000.0)],
        routes: vec![Route { share: 1.0, times: Distribution::LogNormal { median: 10.0, sigma: 0.5 } }],
        clients: 1,
        servers: Vec::new(),
        timeout: None,
        mark: "marked",
        marked: Vec::new(),
    }
}

fn sound(count: usize, cores: u32) -> Vec<ServerSpec> {
    vec![ServerSpec::sound(cores); count]
}

fn finagle() -> Scenario {
    let mut servers = sound(11, 0);
    servers[10] = ServerSpec::sound(0).with(15.0, 45.0, Fault::Stalls(1.0, 2_000.0));
    Scenario {
        routes: vec![Route { share: 1.0, times: Distribution::LogNormal { median: 167.0, sigma: 0.4 } }],
        servers,
        mark: "stalled",
        marked: vec![(10, 11, seconds(15.0), seconds(45.0))],
        ..base(
            "finagle",
            "one of 11 instances stalls for 30 s of 60",
            "Finagle's published experiment: 11 instances, 1,000 requests a second, one instance takes 2 s for every request \
             that it gets in 30 of 60 seconds. Latencies are log-normal with a median of 167 ms and sigma 0.4, which puts the \
             99th percentile at 424 ms and one request in 250,000 above a second.",
        )
    }
}

fn antagonists() -> Scenario {
    // Allocation: what the machines do undisturbed is more than that, since neighbours often leave room.
    let mut rng = Rng::seeded(7);
    let servers = (0..30)
        .map(|_| {
            let mut server = ServerSpec::sound(4);
            let mut at = 0.0;
            while at < 90.0 {
                let length = 1.0 + 8.0 * unit(&mut rng);
                let speed = match rng.below(4) {
                    0 => 0.3 + 0.3 * unit(&mut rng),
                    1 => 0.6 + 0.4 * unit(&mut rng),
                    _ => 1.0,
                };
                server = server.with(at, at + length, Fault::Speed(speed));
                at += length;
            }
            server
        })
        .collect();
    // On average the machines run at 0.79 of their speed: 9,400 requests a second is all they can do.
    let rates = [0.7, 0.8, 0.9, 0.97, 1.05].iter().zip(0..);
    Scenario {
        length: seconds(75.0),
        rates: rates.map(|(part, i)| (seconds(15.0 * f64::from(i)), 9_400.0 * part)).collect(),
        routes: vec![Route { share: 1.0, times: Distribution::Exponential(10.0) }],
        clients: 30,
        servers,
        timeout: Some(seconds(1.0)),
        ..base(
            "antagonists",
            "machines with changing neighbours, load rising to above what they can do",
            "After Prequal: 30 machines of 4 cores whose speed changes every few seconds because of what else runs there, 30 \
             clients, exponential work of 10 ms, and a load that rises every 15 s: 70, 80, 90, 97 and 105 % of what all \
             machines can do on average. Clients give up after a second.",
        )
    }
}

fn one_slow() -> Scenario {
    let mut servers = sound(10, 4);
    servers[9] = ServerSpec::sound(4).with(0.0, FOREVER, Fault::Speed(0.1));
    Scenario {
        rates: vec![(Nanos(0), 1_500.0)],
        servers,
        mark: "slow",
        marked: vec![(9, 10, Nanos(0), seconds(60.0))],
        ..base(
            "one-slow",
            "one of ten instances is ten times slower",
            "Ten instances of 4 cores; one is ten times slower all the time.",
        )
    }
}

fn overloaded_neighbour() -> Scenario {
    let mut servers = sound(10, 4);
    servers[9] = ServerSpec::sound(4).with(20.0, 40.0, Fault::Speed(0.3));
    Scenario {
        rates: vec![(Nanos(0), 2_400.0)],
        clients: 10,
        servers,
        mark: "disturbed",
        marked: vec![(9, 10, seconds(20.0), seconds(40.0))],
        ..base(
            "neighbour",
            "an overloaded neighbour slows one of ten instances for a while",
            "Ten instances of 4 cores, ten clients, two thirds of what they can do; for 20 of 60 seconds one works at 30 %.",
        )
    }
}

fn failing_fast() -> Scenario {
    let mut servers = sound(10, 4);
    servers[9] = ServerSpec::sound(4).with(15.0, 45.0, Fault::Fails(1.0));
    Scenario {
        servers,
        mark: "failing",
        marked: vec![(9, 10, seconds(15.0), seconds(45.0))],
        ..base(
            "failing-fast",
            "one of ten instances fails at once",
            "Ten instances; for 30 of 60 seconds one answers every request with an error within a millisecond. An algorithm \
             that looks at latency alone sends it nearly everything.",
        )
    }
}

fn half_failing() -> Scenario {
    let mut servers = sound(10, 4);
    servers[9] = ServerSpec::sound(4).with(0.0, FOREVER, Fault::Fails(0.5));
    Scenario {
        servers,
        mark: "failing",
        marked: vec![(9, 10, Nanos(0), seconds(60.0))],
        ..base(
            "half-failing",
            "one of ten instances fails half of its requests",
            "Ten instances; one of them fails every second request at random, all the time, and never five in a row for long.",
        )
    }
}

fn rate_limited() -> Scenario {
    let mut servers = sound(10, 4);
    servers[9].limit = Some((20.0, seconds(1.0)));
    Scenario {
        servers,
        mark: "limited",
        marked: vec![(9, 10, Nanos(0), seconds(60.0))],
        ..base(
            "rate-limited",
            "one of ten instances takes 20 requests a second and refuses the rest",
            "Ten instances; one refuses what is beyond 20 requests a second with 429 and `Retry-After: 1`.",
        )
    }
}

fn collecting() -> Scenario {
    let mut rng = Rng::seeded(3);
    let servers = (0..10)
        .map(|_| {
            let mut server = ServerSpec::sound(4);
            let mut at = 5.0 * unit(&mut rng);
            while at < 60.0 {
                let pause = 0.1 + 0.2 * unit(&mut rng);
                server = server.with(at, at + pause, Fault::Speed(0.0));
                at += 3.0 + 4.0 * unit(&mut rng);
            }
            server
        })
        .collect();
    Scenario {
        rates: vec![(Nanos(0), 2_000.0)],
        clients: 4,
        servers,
        ..base(
            "collecting",
            "every instance pauses for 100 to 300 ms every few seconds",
            "Ten instances of 4 cores with a garbage collector that stops each of them for 100 to 300 ms every 3 to 7 s, at \
             different times; four clients.",
        )
    }
}

fn unequal() -> Scenario {
    let servers = [1, 1, 2, 2, 4, 4, 8, 8].into_iter().map(ServerSpec::sound).collect();
    Scenario {
        rates: vec![(Nanos(0), 2_000.0)],
        clients: 4,
        servers,
        mark: "1 core",
        marked: vec![(0, 2, Nanos(0), seconds(60.0))],
        ..base(
            "unequal",
            "instances of 1, 2, 4 and 8 cores, and nobody said so",
            "Two instances each of 1, 2, 4 and 8 cores at three quarters of what they can do together, without weights; four \
             clients.",
        )
    }
}

fn herd() -> Scenario {
    let mut servers = sound(20, 2);
    servers[19] = ServerSpec::sound(2).with(20.0, 30.0, Fault::Speed(0.3));
    Scenario {
        rates: vec![(Nanos(0), 2_700.0)],
        clients: 100,
        servers,
        mark: "slow",
        marked: vec![(19, 20, seconds(20.0), seconds(30.0))],
        ..base(
            "herd",
            "a hundred clients that know little each",
            "100 clients, each of which makes 27 requests a second and sees little of what the others do; 20 instances of 2 \
             cores at three quarters of what they can do. Clients that all rush to the same idle instance would overload it.",
        )
    }
}

fn cold() -> Scenario {
    let mut servers = sound(12, 4);
    for server in &mut servers[8..] {
        server.joins = seconds(20.0);
        server.cold = Some((400, 10.0));
    }
    Scenario {
        rates: vec![(Nanos(0), 1_500.0), (seconds(20.0), 2_400.0)],
        clients: 4,
        servers,
        mark: "cold",
        marked: vec![(8, 12, seconds(20.0), seconds(30.0))],
        ..base(
            "cold",
            "four cold instances join eight warm ones as load rises",
            "Eight instances of 4 cores; after 20 s load rises by 60 % and four more join, whose first requests take ten times \
             as long and who are warm after 400. Four clients.",
        )
    }
}

fn churn() -> Scenario {
    let servers = (0..40)
        .map(|i| {
            let mut server = ServerSpec::sound(4);
            // Ten at any time: every 1.5 s one leaves and another takes its place.
            if i >= 10 {
                server.joins = seconds(1.5 * f64::from(i - 9));
                server.cold = Some((50, 5.0));
            }
            if i < 30 {
                server.leaves = seconds(1.5 * f64::from(i + 1));
            }
            server
        })
        .collect();
    Scenario {
        rates: vec![(Nanos(0), 2_000.0)],
        clients: 4,
        servers,
        ..base(
            "churn",
            "every 1.5 s an instance leaves and a cold one joins",
            "Ten instances at any time; every 1.5 s the oldest leaves and a new one joins, whose first 50 requests take up to \
             five times as long. Four clients.",
        )
    }
}

fn flapping() -> Scenario {
    let mut servers = sound(10, 4);
    for i in 0..6 {
        let at = 5.0 + 10.0 * f64::from(i);
        servers[9] = servers[9].clone().with(at, at + 5.0, Fault::Stalls(1.0, 500.0));
    }
    Scenario {
        servers,
        mark: "flapping",
        marked: vec![(9, 10, Nanos(0), seconds(60.0))],
        ..base(
            "flapping",
            "one of ten instances is slow every other five seconds",
            "Ten instances; one takes 500 ms for each request for five seconds, is well for five, and so on.",
        )
    }
}

fn two_routes() -> Scenario {
    let mut servers = sound(10, 0);
    for server in &mut servers[7..] {
        // Fast at what is slow, and slow at what is fast.
        server.route_factors = vec![10.0, 0.9];
    }
    Scenario {
        routes: vec![
            Route { share: 0.8, times: Distribution::LogNormal { median: 5.0, sigma: 0.3 } },
            Route { share: 0.2, times: Distribution::LogNormal { median: 400.0, sigma: 0.3 } },
        ],
        servers,
        mark: "mixed",
        marked: vec![(7, 10, Nanos(0), seconds(60.0))],
        ..base(
            "two-routes",
            "a quick route and a slow one, and instances that are bad at the quick one",
            "Four fifths of the requests take 5 ms, the others 400 ms. Three of ten instances take ten times as long for the \
             quick ones, and are as good as the others at the slow ones.",
        )
    }
}

fn sparse() -> Scenario {
    let mut servers = sound(200, 4);
    for server in &mut servers[150..] {
        *server = ServerSpec::sound(4).with(0.0, FOREVER, Fault::Speed(0.1));
    }
    Scenario {
        length: seconds(120.0),
        rates: vec![(Nanos(0), 200.0)],
        servers,
        mark: "slow",
        marked: vec![(150, 200, Nanos(0), seconds(120.0))],
        ..base(
            "sparse",
            "as many instances as requests a second, and a quarter of them slow",
            "200 instances and 200 requests a second, so that what is known of an instance is old when it is used; 50 of them \
             are ten times slower.",
        )
    }
}

fn stalling() -> Scenario {
    let mut servers = sound(10, 0);
    servers[9] = ServerSpec::sound(0).with(10.0, 50.0, Fault::Stalls(0.05, 1_000.0));
    Scenario {
        servers,
        mark: "stalling",
        marked: vec![(9, 10, seconds(10.0), seconds(50.0))],
        ..base(
            "stalling",
            "one of ten instances stalls one request in twenty",
            "Ten instances; for 40 of 60 seconds one of them takes a second for one request in twenty and is as quick as the \
             others at the rest.",
        )
    }
}

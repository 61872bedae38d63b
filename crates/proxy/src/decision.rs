//! A decision in the access log: what the choice saw.

use std::fmt::Write;

use engine::Nanos;
use engine::balance::{Ask, By, Candidate, Endpoint, EndpointSet, Standing};

/// Instances that one line shows.
const SHOWN: usize = 8;

/// An instance that was chosen, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken<'a> {
    pub(crate) endpoint: &'a Endpoint,
    /// `None`: the request's session is there.
    pub(crate) by: Option<By>,
}

/// The chosen instance and the cheapest others with the terms of their cost as JSON: `docs/access-log.md`. Looks at all
/// instances, so it is for samples alone.
pub(crate) fn describe(
    endpoints: &EndpointSet,
    now: Nanos,
    ask: &Ask<'_>,
    warm: impl Fn(&Endpoint) -> bool,
    taken: Taken<'_>,
) -> Box<str> {
    let mut candidates = endpoints.weigh(now, ask, warm);
    let is_taken = |candidate: &Candidate| candidate.endpoint.load.id == taken.endpoint.load.id;
    let order =
        |a: &Candidate, b: &Candidate| is_taken(b).cmp(&is_taken(a)).then(a.terms.cost.total_cmp(&b.terms.cost));
    // Of thousands a few are shown: they need not be sorted all.
    if candidates.len() > SHOWN {
        candidates.select_nth_unstable_by(SHOWN, order);
        candidates.truncate(SHOWN);
    }
    candidates.sort_by(order);
    let mut text = String::from("[");
    for candidate in &candidates {
        if text.len() > 1 {
            text.push(',');
        }
        let by = if is_taken(candidate) { Some(reason(taken.by)) } else { None };
        write(&mut text, candidate, by).expect("writing to memory does not fail");
    }
    text.push(']');
    text.into()
}

/// What the choice went by, for the line.
fn reason(by: Option<By>) -> &'static str {
    match by {
        None => "session",
        Some(By::Hash) => "hash",
        Some(By::Trial) => "trial",
        Some(By::Cost) => "cost",
        Some(By::InFlight) => "inFlight",
        Some(By::Turn) => "turn",
        Some(By::Chance) => "chance",
    }
}

/// One instance; `by` is why it was chosen, if it was.
fn write(text: &mut String, candidate: &Candidate, by: Option<&str>) -> std::fmt::Result {
    let terms = &candidate.terms;
    let standing = match candidate.standing {
        Standing::Usable => "usable",
        Standing::Panic => "panic",
        Standing::LeftOut { .. } => "leftOut",
        Standing::Unhealthy => "unhealthy",
        Standing::Tried => "tried",
        Standing::Draining => "draining",
        Standing::NotReady => "notReady",
    };
    // A workload's name has no character that JSON escapes.
    write!(text, "{{\"instance\":\"{}\",", candidate.endpoint.workload)?;
    if let Some(by) = by {
        write!(text, "\"by\":\"{by}\",")?;
    }
    if let Some(group) = candidate.group {
        write!(text, "\"group\":{group},")?;
    }
    let latency = terms.latency.unwrap_or(terms.assumed) / 1e3;
    write!(
        text,
        "\"standing\":\"{standing}\",\"costMicros\":{:.0},\"latencyMicros\":{latency:.0},\"known\":{},\"inFlight\":{},\
         \"elsewhere\":{:.1},\"failing\":{:.3},\"overdue\":{:.1},\"connectMicros\":{:.0},\"weight\":{:.3}}}",
        terms.cost / 1e3,
        terms.latency.is_some(),
        terms.in_flight,
        terms.elsewhere,
        terms.failing,
        terms.overdue,
        terms.connecting / 1e3,
        terms.weight,
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::balance::{Class, InFlight, Locality};
    use engine::policy::BalancePolicy;
    use engine::{Outcome, Rng};

    use super::*;

    /// Fifty instances of which each is slower than the one before.
    fn fifty() -> EndpointSet {
        let endpoint = |i: usize| Endpoint::plain(format!("shop/cart-{i:02}"), ([127, 0, 0, 1], 80).into());
        let all = (0..50).map(|i| Arc::new(endpoint(i))).collect();
        let set = EndpointSet::new(all, BalancePolicy::default(), &Locality::default());
        for (endpoint, slower) in set.endpoints().iter().zip(1..) {
            let request = InFlight::start(Arc::clone(endpoint), Class::default(), Nanos::from_millis(1));
            request.finish(Nanos::from_millis(1 + 10 * slower), Outcome::Success, &set);
        }
        set
    }

    #[test]
    fn the_chosen_instance_comes_first_and_then_the_cheapest() {
        let (set, now) = (fifty(), Nanos::from_millis(600));
        let mut rng = Rng::seeded(1);
        for _ in 0..200 {
            let (chosen, by) = set.choose_by(now, &mut rng, &Ask::default(), |_| true).expect("there are fifty");
            let taken = Taken { endpoint: &chosen, by: Some(by) };
            let text = describe(&set, now, &Ask::default(), |_| true, taken);
            let first = format!("[{{\"instance\":\"{}\",\"by\":\"cost\",\"group\":0,", chosen.workload);
            assert!(text.starts_with(&first), "{first} is not where {text} begins");
            let mut names: Vec<&str> = text.split("\"instance\":\"shop/cart-").skip(1).map(|rest| &rest[..2]).collect();
            assert_eq!((names.len(), text.matches("\"by\"").count()), (SHOWN, 1), "{text}");
            names.remove(0);
            let others: Vec<String> = (0..50).map(|i| format!("{i:02}")).collect();
            let others = others.iter().filter(|name| !chosen.workload.ends_with(name.as_str()));
            assert!(others.take(SHOWN - 1).eq(names.iter()), "{text}");
        }
    }

    #[test]
    fn a_session_is_told_from_the_cost() {
        let set = fifty();
        let taken = Taken { endpoint: &set.endpoints()[49], by: None };
        let text = describe(&set, Nanos::from_millis(600), &Ask::default(), |_| true, taken);
        assert!(text.starts_with("[{\"instance\":\"shop/cart-49\",\"by\":\"session\","), "{text}");
    }
}

//! The customers of the demo's shop: requests at a fixed rate, whatever the answers do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::time::MissedTickBehavior;

use super::caller::Caller;
use super::service::ServiceArgs;
use crate::console;

/// Requests under way at once; more customers than that wait, or a stalled shop would fill the memory.
const MAX_IN_FLIGHT: u64 = 256;

/// Between looks whether the shop is open.
const CLOSED: Duration = Duration::from_millis(200);

/// Makes requests until the process is ended.
pub(crate) async fn run(args: ServiceArgs) -> anyhow::Result<()> {
    let target: Arc<str> = args.target.context("--target is missing")?.into();
    let caller = Arc::new(Caller::from_environment()?);
    let in_flight = Arc::new(AtomicU64::new(0));
    let failing = Arc::new(AtomicU64::new(0));
    // The shop may open later than its first customer comes.
    while !matches!(caller.get(&target).await, Ok((status, _)) if status.is_success()) {
        tokio::time::sleep(CLOSED).await;
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(args.rate).unwrap_or(u32::MAX));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        if in_flight.load(Ordering::Relaxed) >= MAX_IN_FLIGHT {
            continue;
        }
        in_flight.fetch_add(1, Ordering::Relaxed);
        let (target, caller, in_flight, failing) = (target.clone(), caller.clone(), in_flight.clone(), failing.clone());
        tokio::spawn(async move {
            let problem = match caller.get(&target).await {
                Ok((status, _)) if status.is_success() => None,
                Ok((status, _)) => Some(status.to_string()),
                Err(error) => Some(format!("{error:#}")),
            };
            in_flight.fetch_sub(1, Ordering::Relaxed);
            report(&failing, problem);
        });
    }
}

/// Says when failures begin and end, not each of them.
fn report(failing: &AtomicU64, problem: Option<String>) {
    match problem {
        Some(problem) if failing.fetch_add(1, Ordering::Relaxed) == 0 => {
            console::line(format_args!("failing: {problem}"))
        }
        Some(_) => {}
        None => {
            let failures = failing.swap(0, Ordering::Relaxed);
            if failures > 1 {
                console::line(format_args!("answered again after {failures} failures"));
            }
        }
    }
}

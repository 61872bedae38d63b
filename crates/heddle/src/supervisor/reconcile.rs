//! What to start and what to drain so that the instances of one Deployment, StatefulSet or Job become what is wanted.
//! Pure: states in, actions out.

/// What keeps a number of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// A Deployment: instances are alike; a new one is ready before an old one goes.
    Deployment,
    /// A StatefulSet: each instance has its number; it goes before its successor comes, one at a time.
    StatefulSet,
    /// A Job: instances run to completion.
    Job,
}

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    /// Instances; of a Job, those that may run at once.
    pub(crate) replicas: u32,
    /// Which template they are made of.
    pub(crate) template: u64,
    /// Runs of a Job that must succeed.
    pub(crate) completions: u32,
}

/// How far an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not ready yet.
    Starting,
    /// Takes requests.
    Ready,
    /// Was ready, or died and is started again.
    NotReady,
    /// On its way out.
    Draining,
    /// A Job's run that succeeded.
    Succeeded,
    /// A Job's run that failed for good.
    Failed,
    /// It was told to end, and has.
    Gone,
}

/// An instance as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Actual {
    pub(crate) ordinal: u32,
    pub(crate) template: u64,
    pub(crate) phase: Phase,
}

/// What to do next; the next state is looked at when something has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start the instance of this number.
    Start(u32),
    /// Drain the instance of this number.
    Drain(u32),
}

/// The next steps. `None` wanted: nothing is.
pub(crate) fn plan(wanted: Option<&Wanted>, actual: &[Actual]) -> Vec<Action> {
    match wanted {
        None => living(actual).map(|a| Action::Drain(a.ordinal)).collect(),
        Some(wanted) => match wanted.kind {
            Kind::Deployment => deployment(wanted, actual),
            Kind::StatefulSet => stateful_set(wanted, actual),
            Kind::Job => job(wanted, actual),
        },
    }
}

/// Those that are not on their way out.
fn living(actual: &[Actual]) -> impl Iterator<Item = &Actual> {
    actual.iter().filter(|a| matches!(a.phase, Phase::Starting | Phase::Ready | Phase::NotReady))
}

/// The lowest numbers that no instance has, not even one that is on its way out.
fn free(actual: &[Actual]) -> impl Iterator<Item = u32> {
    (0..).filter(|ordinal| actual.iter().all(|a| a.ordinal != *ordinal))
}

/// One more than wanted may run while old ones are replaced, and no ready one goes while fewer than wanted would be left.
fn deployment(wanted: &Wanted, actual: &[Actual]) -> Vec<Action> {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (new, old): (Vec<&Actual>, Vec<&Actual>) = living(actual).partition(|a| a.template == wanted.template);
    let mut actions = Vec::new();
    let surge = u32::from(!old.is_empty());
    let missing = wanted.replicas.saturating_sub(count(new.len()));
    let room = (wanted.replicas + surge).saturating_sub(count(new.len() + old.len()));
    actions.extend(free(actual).take(missing.min(room) as usize).map(Action::Start));

    // The newest of the surplus go first, and what is not ready before what is.
    let surplus = count(new.len()).saturating_sub(wanted.replicas) as usize;
    let mut going: Vec<&&Actual> = new.iter().collect();
    going.sort_by_key(|a| (a.phase == Phase::Ready, std::cmp::Reverse(a.ordinal)));
    actions.extend(going.into_iter().take(surplus).map(|a| Action::Drain(a.ordinal)));

    let ready = |list: &[&Actual]| count(list.iter().filter(|a| a.phase == Phase::Ready).count());
    let mut spare = (ready(&new) + ready(&old)).saturating_sub(wanted.replicas);
    for one in &old {
        if one.phase != Phase::Ready {
            // It serves nobody, so it need not wait for its successor.
            actions.push(Action::Drain(one.ordinal));
        } else if spare > 0 || wanted.replicas == 0 {
            spare = spare.saturating_sub(1);
            actions.push(Action::Drain(one.ordinal));
        }
    }
    actions
}

/// In order of the numbers, each ready before the next starts; replaced from the last to the first, one at a time.
fn stateful_set(wanted: &Wanted, actual: &[Actual]) -> Vec<Action> {
    let surplus: Vec<Action> =
        living(actual).filter(|a| a.ordinal >= wanted.replicas).map(|a| Action::Drain(a.ordinal)).collect();
    if !surplus.is_empty() {
        return surplus;
    }
    for ordinal in 0..wanted.replicas {
        match actual.iter().find(|a| a.ordinal == ordinal) {
            None => return vec![Action::Start(ordinal)],
            // An old one that does not get ready must not hold up its own replacement.
            Some(one) if one.phase != Phase::Ready && one.template == wanted.template => return Vec::new(),
            Some(one) if one.phase == Phase::Draining => return Vec::new(),
            Some(_) => {}
        }
    }
    let outdated = living(actual).filter(|a| a.template != wanted.template).max_by_key(|a| a.ordinal);
    outdated.map(|a| Action::Drain(a.ordinal)).into_iter().collect()
}

/// Runs until enough have succeeded; none after one has failed for good. A changed Job begins anew.
fn job(wanted: &Wanted, actual: &[Actual]) -> Vec<Action> {
    let outdated: Vec<Action> =
        living(actual).filter(|a| a.template != wanted.template).map(|a| Action::Drain(a.ordinal)).collect();
    if !outdated.is_empty() {
        return outdated;
    }
    let count = |phase: Phase| actual.iter().filter(|a| a.template == wanted.template && a.phase == phase).count();
    if count(Phase::Failed) > 0 {
        return Vec::new();
    }
    let running = living(actual).count();
    let left = (wanted.completions as usize).saturating_sub(count(Phase::Succeeded) + running);
    let room = (wanted.replicas as usize).saturating_sub(running);
    free(actual).take(left.min(room)).map(Action::Start).collect()
}

#[cfg(test)]
mod tests;

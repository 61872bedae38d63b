use super::*;

const OLD: u64 = 1;
const NEW: u64 = 2;

fn wanted(kind: Kind, replicas: u32) -> Wanted {
    Wanted { kind, replicas, template: NEW, completions: replicas }
}

fn one(ordinal: u32, template: u64, phase: Phase) -> Actual {
    Actual { ordinal, template, phase }
}

/// Carries actions out the way the supervisor does; what starts becomes ready and what drains goes when `settle` is called.
struct Model {
    actual: Vec<Actual>,
}

impl Model {
    fn apply(&mut self, wanted: Option<&Wanted>) -> Vec<Action> {
        let actions = plan(wanted, &self.actual);
        for action in &actions {
            match action {
                Action::Start(ordinal) => {
                    assert!(self.actual.iter().all(|a| a.ordinal != *ordinal), "two of one number");
                    let template = wanted.map_or(0, |w| w.template);
                    self.actual.push(one(*ordinal, template, Phase::Starting));
                }
                Action::Drain(ordinal) => {
                    let it = self.actual.iter_mut().find(|a| a.ordinal == *ordinal).expect("it is there");
                    assert_ne!(it.phase, Phase::Draining);
                    it.phase = Phase::Draining;
                }
            }
        }
        actions
    }

    fn settle(&mut self) {
        self.actual.retain(|a| a.phase != Phase::Draining);
        for a in &mut self.actual {
            if a.phase == Phase::Starting {
                a.phase = Phase::Ready;
            }
        }
    }

    fn ready(&self) -> usize {
        self.actual.iter().filter(|a| a.phase == Phase::Ready).count()
    }
}

#[test]
fn a_deployment_starts_all_at_once() {
    let actions = plan(Some(&wanted(Kind::Deployment, 3)), &[]);
    assert_eq!(actions, [Action::Start(0), Action::Start(1), Action::Start(2)]);
}

#[test]
fn a_changed_deployment_never_serves_with_fewer() {
    let wanted = wanted(Kind::Deployment, 3);
    let mut model = Model { actual: (0..3).map(|n| one(n, OLD, Phase::Ready)).collect() };
    let mut steps = 0;
    while !model.apply(Some(&wanted)).is_empty() {
        assert!(model.ready() >= 3, "{:?}", model.actual);
        assert!(model.actual.iter().filter(|a| a.phase != Phase::Draining).count() <= 4, "{:?}", model.actual);
        model.settle();
        steps += 1;
        assert!(steps < 20, "it does not end");
    }
    assert_eq!(model.actual.len(), 3);
    assert!(model.actual.iter().all(|a| a.template == NEW && a.phase == Phase::Ready));
}

#[test]
fn a_change_that_does_not_get_ready_leaves_the_old_ones() {
    let wanted = wanted(Kind::Deployment, 2);
    let actual = [one(0, OLD, Phase::Ready), one(1, OLD, Phase::Ready), one(2, NEW, Phase::Starting)];
    assert_eq!(plan(Some(&wanted), &actual), []);
}

#[test]
fn old_instances_that_are_not_ready_make_room() {
    let wanted = wanted(Kind::Deployment, 1);
    assert_eq!(plan(Some(&wanted), &[one(0, OLD, Phase::NotReady)]), [Action::Start(1), Action::Drain(0)]);
}

#[test]
fn fewer_replicas_drain_the_highest_numbers() {
    let wanted = wanted(Kind::Deployment, 1);
    let actual = [one(0, NEW, Phase::Ready), one(1, NEW, Phase::Ready), one(2, NEW, Phase::Starting)];
    assert_eq!(plan(Some(&wanted), &actual), [Action::Drain(2), Action::Drain(1)]);
}

#[test]
fn no_replicas_and_no_object_drain_everything() {
    let actual = [one(0, OLD, Phase::Ready), one(1, NEW, Phase::Starting), one(2, NEW, Phase::Draining)];
    assert_eq!(plan(None, &actual), [Action::Drain(0), Action::Drain(1)]);
    let mut none = plan(Some(&wanted(Kind::Deployment, 0)), &actual);
    none.sort_by_key(|a| matches!(a, Action::Drain(1)));
    assert_eq!(none, [Action::Drain(0), Action::Drain(1)]);
}

#[test]
fn a_stateful_set_starts_in_order_and_is_replaced_from_the_last() {
    let wanted = wanted(Kind::StatefulSet, 2);
    let mut model = Model { actual: Vec::new() };
    assert_eq!(model.apply(Some(&wanted)), [Action::Start(0)]);
    assert_eq!(model.apply(Some(&wanted)), [], "it waits for the first");
    model.settle();
    assert_eq!(model.apply(Some(&wanted)), [Action::Start(1)]);
    model.settle();
    for a in &mut model.actual {
        a.template = OLD;
    }
    assert_eq!(model.apply(Some(&wanted)), [Action::Drain(1)]);
    assert_eq!(model.apply(Some(&wanted)), []);
    model.settle();
    assert_eq!(model.apply(Some(&wanted)), [Action::Start(1)]);
    model.settle();
    assert_eq!(model.apply(Some(&wanted)), [Action::Drain(0)]);
}

#[test]
fn a_job_runs_until_enough_have_succeeded() {
    let wanted = Wanted { completions: 3, ..wanted(Kind::Job, 2) };
    let mut model = Model { actual: Vec::new() };
    assert_eq!(model.apply(Some(&wanted)), [Action::Start(0), Action::Start(1)]);
    model.actual[0].phase = Phase::Succeeded;
    assert_eq!(model.apply(Some(&wanted)), [Action::Start(2)]);
    for a in &mut model.actual {
        a.phase = Phase::Succeeded;
    }
    assert_eq!(model.apply(Some(&wanted)), []);
}

#[test]
fn a_job_that_failed_starts_no_more() {
    let wanted = Wanted { completions: 3, ..wanted(Kind::Job, 1) };
    assert_eq!(plan(Some(&wanted), &[one(0, NEW, Phase::Failed)]), []);
}

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A worker whose time is told.
struct Told {
    now: Instant,
    times: Times,
    courtesy: Courtesy,
    policy: Policy,
    look: Duration,
}

impl Told {
    fn new() -> Told {
        let (now, times) = (Instant::now(), Times { ran: 1, waited: 0, turns: 1 });
        Told { now, times, courtesy: Courtesy::new(now, times), policy: Policy::Usual, look: LOOK.1 }
    }

    /// So many seconds with so many turns in each, each of which ran and waited so many microseconds.
    fn seconds(&mut self, seconds: u32, (turns, ran, waited): (u64, u64, u64)) -> Policy {
        let end = self.now + SECOND * seconds;
        while self.now < end {
            self.now += self.look;
            let turns = turns * u64::try_from(self.look.as_millis()).unwrap() / 1_000;
            self.times.turns += turns;
            self.times.ran += turns * ran * 1_000;
            self.times.waited += turns * waited * 1_000;
            let next = self.courtesy.next(self.now, self.times);
            self.look = next.look;
            if let Some(policy) = next.policy {
                assert_ne!(policy, self.policy, "told to change to what it is");
                self.policy = policy;
            }
        }
        self.policy
    }

    /// Seconds until the policy is another.
    fn seconds_until(&mut self, policy: Policy, second: (u64, u64, u64)) -> u32 {
        (1..1_000).find(|_| self.seconds(1, second) == policy).expect("it changes")
    }
}

/// Beside enough processors, and beside loops that never sleep: turns a second, microseconds at work and waiting in each.
const CALM: (u64, u64, u64) = (2_000, 15, 9);
const BESIDE_LOOPS: (u64, u64, u64) = (1_500, 25, 75);
const IDLE: (u64, u64, u64) = (30, 30, 5);

#[test]
fn what_the_kernel_writes_is_read() {
    assert_eq!(parse(b"866366 17 2\n"), Some(Times { ran: 866_366, waited: 17, turns: 2 }));
    assert_eq!(parse(b"18446744073709551615 0 1 7\n").unwrap().ran, u64::MAX);
    for bad in ["", "1 2", "1 2 x", "1 -2 3", "18446744073709551616 1 1"] {
        assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn it_is_courteous_while_it_is_woken_often_and_may_run() {
    let mut told = Told::new();
    assert_eq!(told.seconds(10, IDLE), Policy::Usual);
    assert_eq!(told.seconds(1, CALM), Policy::Batch);
    assert_eq!(told.seconds(10, (1_500, 250, 280)), Policy::Batch);
    assert_eq!(
        told.seconds(10, (300, 30, 5)),
        Policy::Batch,
        "what is often enough to stay is not often enough to begin"
    );
    assert_eq!(told.seconds(1, IDLE), Policy::Usual);
    assert_eq!(told.seconds(5, (300, 15, 4_000)), Policy::Usual);
    assert_eq!(told.seconds(1, CALM), Policy::Batch, "what it waited while it was not courteous does not count");
}

#[test]
fn beside_loops_it_gives_up_within_two_seconds_and_tries_again_less_and_less_often() {
    let mut told = Told::new();
    assert_eq!(told.seconds(3, CALM), Policy::Batch);
    let mut kept = Vec::new();
    for _ in 0..8 {
        assert!(told.seconds_until(Policy::Usual, BESIDE_LOOPS) <= 2);
        kept.push(told.seconds_until(Policy::Batch, BESIDE_LOOPS));
    }
    assert_eq!(kept, [10, 20, 40, 80, 160, 300, 300, 300]);
    // Who waits so long that little gets done is not merely idle: it does not try again at the next look.
    assert!(told.seconds_until(Policy::Usual, (150, 25, 6_000)) <= 2);
    // Time without work is no good time.
    told.seconds(1_000, IDLE);
    assert_eq!(told.seconds(1, CALM), Policy::Batch);
    assert!(told.seconds_until(Policy::Usual, BESIDE_LOOPS) <= 2);
    assert_eq!(told.seconds_until(Policy::Batch, CALM), 300);
    // A long good time is, and it begins anew.
    assert_eq!(told.seconds(305, CALM), Policy::Batch);
    assert!(told.seconds_until(Policy::Usual, BESIDE_LOOPS) <= 2);
    assert_eq!(told.seconds_until(Policy::Batch, CALM), 10);
}

/// 50 ms of every second do not spoil the mean of the second, but one in a hundred requests.
#[test]
fn short_bursts_of_others_are_noticed() {
    let mut told = Told::new();
    assert_eq!(told.seconds(3, (1_050, 40, 10)), Policy::Batch);
    // 50 ms as the last second, in which 12 turns waited 3.5 ms each.
    told.times.ran += 100 * 40_000;
    told.times.waited += 12 * 3_500_000;
    told.times.turns += 100;
    assert_eq!(told.seconds(1, (1_050, 40, 10)), Policy::Usual);
    assert_eq!(told.seconds_until(Policy::Batch, (1_050, 40, 10)), 10);
}

/// Work ends in the middle of a look, others begin theirs, and two timers wait 4 ms each.
#[test]
fn timers_that_wait_when_the_work_is_done_are_no_failure() {
    let mut told = Told::new();
    assert_eq!(told.seconds(3, CALM), Policy::Batch);
    told.times.ran += 60 * 15_000;
    told.times.waited += 2 * 4_000_000;
    told.times.turns += 62;
    assert_eq!(told.seconds(1, IDLE), Policy::Usual);
    assert_eq!(told.seconds(1, CALM), Policy::Batch);
}

proptest! {
    /// Whatever the kernel says, even numbers that go back.
    #[test]
    fn it_takes_any_numbers(seconds in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), 0_u64..1_000), 0..100)) {
        let mut now = Instant::now();
        let mut courtesy = Courtesy::new(now, Times::default());
        let mut policy = Policy::Usual;
        for (ran, waited, turns, later) in seconds {
            now += Duration::from_secs(later);
            let next = courtesy.next(now, Times { ran, waited, turns });
            if let Some(next) = next.policy {
                prop_assert_ne!(next, policy);
                policy = next;
            }
            prop_assert!(next.look == LOOK.0 || next.look == LOOK.1);
            prop_assert!(KEPT.contains(&courtesy.keep));
        }
    }
}

#[test]
fn a_policy_that_somebody_chose_stays() {
    let kept = thread::spawn(|| {
        let start = Instant::now();
        let mut watch = Watch::of_this_thread(start).unwrap().expect("the usual policy, and a kernel that counts");
        set(libc::SCHED_IDLE).unwrap();
        assert!(Watch::of_this_thread(start).unwrap().is_none());
        watch.courtesy.seen.1.turns -= 1; // A turn a microsecond is often.
        assert_eq!(watch.review(start + Duration::from_micros(1)).unwrap(), None);
        not_inherited();
        assert_eq!(policy(0).unwrap(), libc::SCHED_IDLE);
    });
    kept.join().unwrap();
}

#[tokio::test]
async fn threads_that_a_courteous_worker_starts_are_as_others() {
    let workers = crate::worker::spawn(1, "data", |_| async {
        set(libc::SCHED_BATCH).unwrap();
        let inherited = thread::spawn(|| policy(0).unwrap()).join().unwrap();
        let started = tokio::task::spawn_blocking(|| policy(0).unwrap()).await.unwrap();
        assert_eq!((inherited, started), (libc::SCHED_BATCH, libc::SCHED_OTHER));
    });
    workers.unwrap().finished().await.unwrap();
}

/// The real thing: a thread that wakes often and works little, alone at first, then with loops that never sleep on the
/// one processor that all of them may use.
#[test]
fn a_real_thread_is_courteous_until_loops_do_not_let_it_run() {
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me).unwrap();
    let one = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu).unwrap()).expect("a processor");
    let pin = move || {
        let mut set = CpuSet::new();
        set.set(one).unwrap();
        sched_setaffinity(me, &set).unwrap();
    };
    let before = policy(0).unwrap();
    let end = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&end);
    let worker = thread::spawn(move || {
        pin();
        let mut watch =
            Watch::of_this_thread(Instant::now()).unwrap().expect("the usual policy, and a kernel that counts");
        let mut wait_for = |what: &str, reached: &dyn Fn(&Watch) -> bool| {
            let start = Instant::now();
            let mut look = start + LOOK.0;
            while !reached(&watch) {
                assert!(start.elapsed() < Duration::from_mins(2), "{what}: {watch:?}");
                thread::sleep(Duration::from_micros(200)); // What wakes it is the kernel's timer.
                let now = Instant::now();
                if now >= look {
                    look = now + watch.review(now).unwrap().expect("nobody else changes it");
                }
            }
        };
        wait_for("never courteous", &|_| policy(0).unwrap() == libc::SCHED_BATCH);
        let loops = [(); 3].map(|()| {
            let ended = Arc::clone(&ended);
            thread::spawn(move || {
                set(libc::SCHED_OTHER).unwrap();
                pin();
                while !ended.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        });
        // Not because it is woken less often now, which it is too.
        wait_for("it does not notice", &|watch| watch.courtesy.keep > *KEPT.start());
        assert_eq!(policy(0).unwrap(), libc::SCHED_OTHER);
        loops
    });
    let went = worker.join();
    end.store(true, Ordering::Relaxed);
    for each in went.unwrap() {
        each.join().unwrap();
    }
    assert_eq!(policy(0).unwrap(), before, "other threads are as they were");
}

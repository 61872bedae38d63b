//! How a worker asks the kernel for a processor: without preempting anybody, as long as that costs it no time.
//!
//! Nearly every byte that a sidecar sends on its own machine wakes somebody there: the application beside it, or another sidecar. Under
//! the usual policy a sidecar that is woken may take the processor from the sender at once, before the sender has done what is left of
//! its turn; the sender is then moved to another processor, with an interrupt and cold caches. A thread of `SCHED_BATCH`
//! (sched(7)) does not preempt when it is woken (`check_preempt_wakeup_fair` in the kernel's `kernel/sched/fair.c`): it runs when
//! the one that woke it goes to sleep, which between neighbours is soon, for that one waits for an answer.
//!
//! Beside work that does not sleep, the same courtesy costs what is left of that work's time slice, rounded up to the kernel's
//! ticks, for each wake-up (3.5 ms on the average and up to 8 on Linux 6.18 at 250 Hz). So a worker is courteous only while it is woken often, and
//! while it looks how long it waits for a processor and how long it has one (`/proc/thread-self/schedstat`,
//! Documentation/scheduler/sched-stats.rst of the kernel). When others do not let it run it goes back to the usual policy, and tries again
//! after a while.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::libc;
use tokio::time::Instant;

/// Times a second that a worker has to be given a processor to become courteous, some 200 requests/s, and to stay so. With less
/// there is little to save, and too little to judge by.
const OFTEN: (u64, u64) = (400, 200);

/// Times a second that mean that something goes on. A worker without work wakes some 25 times, for timers.
const ACTIVE: u64 = 100;

/// Time to the next look of a worker that does something, and of one that does nothing.
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

/// Waiting for a processor more than so many times as long as working: others do not let it run. From one look to the next, and over
/// [`JUDGED`]. Measured on two processors over a second: 0.2 to 0.8 at 1,000 requests/s, up to 1.7 when load, application and
/// sidecars have no processor to spare, 2 to 20 beside two and four loops that never sleep.
const TOO_LONG: (u64, u64) = (4, 2);

/// From one look to the next it has to be this part of the time besides. Where work ends and others have much to do, its timers
/// alone wait some milliseconds, which nobody notices.
const A_FIFTH: u32 = 5;

/// See [`TOO_LONG`].
const JUDGED: Duration = Duration::from_secs(1);

/// How long the usual policy is kept at first, and at most: it doubles each time that the next try fails before it has gone well
/// for as long.
const KEPT: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_mins(5);

/// What `/proc/thread-self/schedstat` says of a thread, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    /// Nanoseconds with a processor.
    ran: u64,
    /// Nanoseconds in which it could have run and had none.
    waited: u64,
    /// How often it got one.
    turns: u64,
}

/// The two policies between which a worker changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Usual,
    Batch,
}

/// Looks after the scheduling of the thread that it runs on, for ever. A policy that somebody else has given the thread (`chrt`,
/// systemd's `CPUSchedulingPolicy=`) stays as it is, and so does everything where the kernel does not tell times or does not let the
/// policy be changed.
pub async fn run() {
    if let Err(error) = look_after().await {
        tracing::debug!(%error, "a worker cannot look after its scheduling");
        not_inherited(); // Nobody looks any more at what being courteous costs.
    }
    std::future::pending().await
}

/// Gives the calling thread, which a courteous worker may have started, the usual policy: nobody looks after this one. For
/// threads of this process that are no workers.
pub(crate) fn not_inherited() {
    // Workers change their own policy and never the first thread's, so that one has what the process was started with.
    let first = nix::unistd::getpid().as_raw();
    if policy(0).ok() == Some(libc::SCHED_BATCH) && policy(first).ok() == Some(libc::SCHED_OTHER) {
        let _ = set(libc::SCHED_OTHER); // It was let change the other way.
    }
}

async fn look_after() -> io::Result<()> {
    let Some(mut watch) = Watch::of_this_thread(Instant::now())? else { return Ok(()) };
    let mut look = Some(LOOK.1);
    while let Some(time) = look {
        tokio::time::sleep(time).await;
        look = watch.review(Instant::now())?;
    }
    Ok(())
}

/// What a thread knows of its own scheduling.
#[derive(Debug)]
struct Watch {
    times: File,
    courtesy: Courtesy,
    /// What it set last.
    policy: Policy,
    /// It stays on its thread: the calls that it makes are about whoever makes them.
    _thread: PhantomData<*const ()>,
}

impl Watch {
    /// `None`: the policy is somebody else's choice, or the kernel does not count.
    fn of_this_thread(now: Instant) -> io::Result<Option<Watch>> {
        if policy(0)? != libc::SCHED_OTHER {
            return Ok(None);
        }
        set(libc::SCHED_OTHER)?; // Changes nothing, and whoever forbids the call is noticed now instead of under load.
        let file = File::open("/proc/thread-self/schedstat")?;
        let times = read(&file)?;
        if times.turns == 0 {
            return Ok(None); // It runs, so this is its first turn at least.
        }
        let courtesy = Courtesy::new(now, times);
        Ok(Some(Watch { times: file, courtesy, policy: Policy::Usual, _thread: PhantomData }))
    }

    /// Looks at how it went since the last time, and changes the policy if that is called for. Returns after how long to look
    /// again; never, when somebody else has changed the policy.
    fn review(&mut self, now: Instant) -> io::Result<Option<Duration>> {
        let next = self.courtesy.next(now, read(&self.times)?);
        if let Some(wanted) = next.policy {
            if policy(0)? != self.policy.number() {
                return Ok(None);
            }
            set(wanted.number())?;
            self.policy = wanted;
            tracing::debug!(policy = ?wanted, "scheduled in another way");
        }
        Ok(Some(next.look))
    }
}

fn read(file: &File) -> io::Result<Times> {
    let mut bytes = [0; 64]; // Three numbers of at most 20 digits, two spaces, a line's end.
    let length = file.read_at(&mut bytes, 0)?;
    parse(&bytes[..length])
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "schedstat does not hold three numbers"))
}

fn parse(bytes: &[u8]) -> Option<Times> {
    let mut numbers = std::str::from_utf8(bytes).ok()?.split_ascii_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    Some(Times { ran: next()?, waited: next()?, turns: next()? })
}

impl Policy {
    fn number(self) -> i32 {
        match self {
            Policy::Usual => libc::SCHED_OTHER,
            Policy::Batch => libc::SCHED_BATCH,
        }
    }
}

// Why `unsafe`, twice: nix 0.31 has neither call and rustix 1.1 lists both as not implemented. A crate that wraps them would be one
// more dependency with the same two lines in it. The calls are made directly because musl's wrappers answer ENOSYS.

/// The policy of a thread of ours (0: the calling one), as a number of sched(7).
#[allow(unsafe_code, reason = "neither nix nor rustix has sched_getscheduler(2)")]
fn policy(thread: i32) -> io::Result<i32> {
    // SAFETY: the call takes a plain number and touches no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_sched_getscheduler, libc::c_long::from(thread)) };
    nix::errno::Errno::result(answer).map(|policy| policy as i32).map_err(io::Error::from)
}

/// Gives the calling thread a policy without a priority, as a number of sched(7); its `nice` stays.
#[allow(unsafe_code, reason = "neither nix nor rustix has sched_setscheduler(2)")]
fn set(policy: i32) -> io::Result<()> {
    // `struct sched_param` of the kernel: one number.
    let priority: i32 = 0;
    let (this_thread, policy): (libc::c_long, libc::c_long) = (0, policy.into());
    // SAFETY: the kernel reads one `int` from the address of `priority`, which outlives the call, and writes nothing. It changes
    // only the calling thread.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setscheduler, this_thread, policy, &raw const priority) };
    nix::errno::Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// When to be courteous.
#[derive(Debug)]
struct Courtesy {
    batch: bool,
    /// When it last looked, and at what.
    seen: (Instant, Times),
    /// From when on it is judged now.
    from: (Instant, Times),
    /// For how long it has been courteous since the last failure.
    good: Duration,
    /// Not before then.
    allowed: Instant,
    /// How long the usual policy is kept when the next try fails.
    keep: Duration,
}

/// What to do: the policy to change to, if any, and when to look again.
#[derive(Debug)]
struct Next {
    policy: Option<Policy>,
    look: Duration,
}

impl Times {
    /// What came since `before`; nothing where a number went back.
    fn since(self, before: Times) -> Times {
        Times {
            ran: self.ran.saturating_sub(before.ran),
            waited: self.waited.saturating_sub(before.waited),
            turns: self.turns.saturating_sub(before.turns),
        }
    }

    /// Whether it had a processor as often as `rate` a second within `time`.
    fn at_least(self, rate: u64, time: Duration) -> bool {
        self.turns > 0 && u128::from(self.turns) * 1_000_000 >= u128::from(rate) * time.as_micros()
    }

    /// Whether it waited more than `times` as long as it ran.
    fn waited_longer(self, times: u64) -> bool {
        self.waited > self.ran.saturating_mul(times)
    }
}

impl Courtesy {
    fn new(now: Instant, times: Times) -> Courtesy {
        let (seen, from) = ((now, times), (now, times));
        Courtesy { batch: false, seen, from, good: Duration::ZERO, allowed: now, keep: *KEPT.start() }
    }

    /// What to do when the kernel has counted `times` so far.
    fn next(&mut self, now: Instant, times: Times) -> Next {
        let (before, seen) = std::mem::replace(&mut self.seen, (now, times));
        let (time, since) = (now.duration_since(before), times.since(seen));
        let batch = if self.batch {
            self.let_run(since, time) && since.at_least(OFTEN.1, time)
        } else {
            since.at_least(OFTEN.0, time) && now >= self.allowed
        };
        let policy = (batch != self.batch).then_some(if batch { Policy::Batch } else { Policy::Usual });
        if policy == Some(Policy::Batch) {
            self.from = (now, times);
        } else if batch {
            self.good += time;
        }
        self.batch = batch;
        Next { policy, look: if since.at_least(ACTIVE, time) { LOOK.0 } else { LOOK.1 } }
    }

    /// Whether others let it run well enough so far; `last` is what came since the last look, `time` ago.
    fn let_run(&mut self, last: Times, time: Duration) -> bool {
        let ((now, times), (began, from)) = (self.seen, self.from);
        let judged = now.duration_since(began) >= JUDGED;
        let at_once = last.waited_longer(TOO_LONG.0) && Duration::from_nanos(last.waited) > time / A_FIFTH;
        let failed = at_once || (judged && times.since(from).waited_longer(TOO_LONG.1));
        if judged {
            self.from = (now, times);
        }
        if failed {
            if self.good > self.keep {
                self.keep = *KEPT.start();
            }
            self.good = Duration::ZERO;
            self.allowed = now + self.keep;
            self.keep = (self.keep * 2).min(*KEPT.end());
        }
        !failed
    }
}

#[cfg(test)]
mod tests;

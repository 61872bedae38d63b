//! How a worker asks the kernel for a processor: without preempting anybody, as long as that costs it no time.
//!
//! Nearly every byte that a sidecar sends on its own machine wakes somebody there: the application beside it, or another sidecar. Under
//! the usual policy whoever is woken may take the processor from the sender at once, before the sender has done what is left of its
//! turn; the sender is then moved to another processor, with an interrupt and cold caches. Between two sidecars that happens
//! twice a request. A thread of `SCHED_BATCH` (sched(7)) does not preempt when it is woken: it runs when the one that woke
//! it goes to sleep, which is soon, for that one waits for an answer.
//!
//! Beside work that does not sleep, the same courtesy costs up to a tick of the kernel's clock for each wake-up (4 ms at 250 Hz). So a
//! worker is courteous only while it has much to do, and while it looks how long it waits for a processor and how long it has
//! one (`/proc/thread-self/schedstat`, Documentation/scheduler/sched-stats.rst of the kernel). When others do not let it run it goes back to
//! the usual policy, and tries again after a while.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::libc;
use tokio::time::Instant;

/// Times a second that a worker has to be given a processor to be courteous: some 200 requests/s. With less to do there is
/// little to save, and too little to judge by.
const BUSY: u64 = 400;

/// Waiting for a processor more than so many times as long as working: others do not let it run. Measured on two
/// processors: 0.2 to 0.8 at 1,000 requests/s, up to 1.7 when load, application and sidecars have no processor to spare, 2 to 20 beside
/// two and four loops that never sleep.
const TOO_LONG: u64 = 2;

/// Times a second that mean that something goes on. A worker without work wakes some 25 times, for timers.
const ACTIVE: u64 = 100;

/// Over how long it is judged.
const JUDGED: Duration = Duration::from_secs(1);

/// Time to the next look of a worker that does something, and of one that does nothing.
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

/// How long the usual policy is kept at first, and at most: it doubles each time that the next try ends as the one before.
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

/// Looks after the scheduling of the thread that it runs on, for ever. A policy that somebody has given the process (`chrt`,
/// systemd's `CPUSchedulingPolicy=`) stays as it is, and so does everything where the kernel does not tell times or does not let the policy be
/// changed.
pub async fn run() {
    if let Err(error) = look_after().await {
        tracing::debug!(%error, "a worker cannot look after its scheduling");
        // Nobody looks any more at what being courteous costs. Where even this is refused, nothing was changed before.
        let _ = set(Policy::Usual);
    }
    std::future::pending().await
}

async fn look_after() -> io::Result<()> {
    let Some(mut watch) = Watch::of_this_thread(Instant::now())? else { return Ok(()) };
    let mut look = LOOK.1;
    loop {
        tokio::time::sleep(look).await;
        look = watch.review(Instant::now())?;
    }
}

/// What a thread knows of its own scheduling.
#[derive(Debug)]
struct Watch {
    times: File,
    courtesy: Courtesy,
    /// It stays on its thread: the calls that it makes are about whoever makes them.
    _thread: PhantomData<*const ()>,
}

impl Watch {
    /// `None`: the policy is somebody else's choice, or the kernel does not count.
    fn of_this_thread(now: Instant) -> io::Result<Option<Watch>> {
        if policy()? != libc::SCHED_OTHER {
            return Ok(None);
        }
        let file = File::open("/proc/thread-self/schedstat")?;
        let times = read(&file)?;
        if times.turns == 0 {
            return Ok(None); // It runs, so this is its first turn at least.
        }
        Ok(Some(Watch { times: file, courtesy: Courtesy::new(now, times), _thread: PhantomData }))
    }

    /// Looks at how it went since the last time, and changes the policy if that is called for. Returns after how long to look
    /// again.
    fn review(&mut self, now: Instant) -> io::Result<Duration> {
        let next = self.courtesy.next(now, read(&self.times)?);
        if let Some(policy) = next.policy {
            set(policy)?;
            tracing::debug!(?policy, "scheduled in another way");
        }
        Ok(next.look)
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

/// The calling thread's policy, as a number of sched(7).
#[allow(unsafe_code, reason = "no crate of ours wraps the call; argued at its use")]
fn policy() -> io::Result<i32> {
    // SAFETY: the call takes a plain number (0: the calling thread) and touches no memory of ours. It is made directly because
    // musl's wrapper answers ENOSYS.
    let answer = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    nix::errno::Errno::result(answer).map(|policy| policy as i32).map_err(io::Error::from)
}

/// Gives the calling thread a policy; its `nice` stays.
#[allow(unsafe_code, reason = "no crate of ours wraps the call; argued at its use")]
fn set(policy: Policy) -> io::Result<()> {
    let policy = match policy {
        Policy::Usual => libc::SCHED_OTHER,
        Policy::Batch => libc::SCHED_BATCH,
    };
    // `struct sched_param` of the kernel: one number, the priority, which these policies do not have.
    let priority: i32 = 0;
    // SAFETY: the kernel reads one `int` from the address of `priority`, which outlives the call, and writes nothing. It changes
    // only the calling thread (0). Made directly because musl's wrapper answers ENOSYS.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const priority) };
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

impl Courtesy {
    fn new(now: Instant, times: Times) -> Courtesy {
        Courtesy { batch: false, seen: (now, times), from: (now, times), allowed: now, keep: *KEPT.start() }
    }

    /// What to do when the kernel has counted `times` so far.
    fn next(&mut self, now: Instant, times: Times) -> Next {
        let (before, seen) = std::mem::replace(&mut self.seen, (now, times));
        let (time, turns) = (now.duration_since(before), times.turns.saturating_sub(seen.turns));
        let at_least = |rate: u64| turns > 0 && u128::from(turns) * 1_000_000 >= u128::from(rate) * time.as_micros();
        let busy = at_least(BUSY);
        let batch = if self.batch { self.let_run(now, times, busy) && busy } else { busy && now >= self.allowed };
        let policy = (batch != self.batch).then_some(if batch { Policy::Batch } else { Policy::Usual });
        if policy == Some(Policy::Batch) {
            self.from = (now, times);
        }
        self.batch = batch;
        Next { policy, look: if at_least(ACTIVE) { LOOK.0 } else { LOOK.1 } }
    }

    /// Whether others let it run well enough so far. Who waits long gets less done, so one that is no longer busy is judged at once.
    fn let_run(&mut self, now: Instant, times: Times, busy: bool) -> bool {
        let (began, from) = self.from;
        if busy && now.duration_since(began) < JUDGED {
            return true;
        }
        self.from = (now, times);
        let (ran, waited) = (times.ran.saturating_sub(from.ran), times.waited.saturating_sub(from.waited));
        if waited <= ran.saturating_mul(TOO_LONG) {
            return true;
        }
        // What went well for longer than it would be left alone was no failed try.
        if now.saturating_duration_since(self.allowed) > self.keep {
            self.keep = *KEPT.start();
        }
        self.allowed = now + self.keep;
        self.keep = (self.keep * 2).min(*KEPT.end());
        false
    }
}

#[cfg(test)]
mod tests;

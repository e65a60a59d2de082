//! Assignment of processes to cores, so that the server is measured and not the scheduler.

use std::{
    fs,
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Cores in use: servers run on one; Redis, the load generator and this process run on another.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    pub server: usize,
    pub rest: usize,
}

impl Cores {
    /// Returns `None` if there is only one core, or if the system does not support pinning.
    pub fn find() -> Option<Self> {
        #[cfg(target_os = "linux")]
        {
            use rustix::thread::{CpuSet, sched_getaffinity};

            let allowed = sched_getaffinity(None).ok()?;
            let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
            Some(Self {
                server: cpus.next()?,
                rest: cpus.next()?,
            })
        }
        #[cfg(not(target_os = "linux"))]
        None
    }
}

/// Pins this thread, and all threads and processes that it starts from now on, to one core.
pub fn pin(cpu: usize) -> Result<(), String> {
    #[cfg(target_os = "linux")]
    {
        let mut cpus = rustix::thread::CpuSet::new();
        cpus.set(cpu);
        rustix::thread::sched_setaffinity(None, &cpus)
            .map_err(|error| format!("cannot pin to core {cpu}: {error}"))
    }
    #[cfg(not(target_os = "linux"))]
    Err(format!("cannot pin to core {cpu} on this system"))
}

/// Thread of the lowest priority that keeps the servers' core busy. A core that idles between two
/// requests may take longer to wake up than a request takes. The other core never idles while there
/// is load.
pub struct Spinner {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Spinner {
    pub fn start(cores: Cores) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            if pin(cores.server).is_ok() && yield_to_all() {
                while !ends.load(Relaxed) {
                    for n in 0..1_000_000_u64 {
                        black_box(n);
                    }
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Gives the calling thread the lowest priority. On Linux the priority is per thread; on other
/// systems no spinner runs.
fn yield_to_all() -> bool {
    cfg!(target_os = "linux") && rustix::process::setpriority_process(None, 19).is_ok()
}

/// Returns the CPU time that all threads of a process have used together.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let stat = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanos += stat.split(' ').next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(nanos))
}

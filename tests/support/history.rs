//! Histories of revocations and requests, judged by a checker of linearizability that is not ours:
//! Porcupine, in the program of `tests/checker`.

use std::{
    fs,
    io::{BufWriter, Write as _},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Instant,
};

use serde::Serialize;

use super::{idp::distribution, process::command};

/// Folder of the checker, with the same name as in `tests/idp/fetch`.
const DISTRIBUTION: &str = "porcupine-1.3.1-1";

/// What happened to the sessions of a test, by one monotonic clock. Nodes and sessions are numbers.
pub struct History {
    began: Instant,
    /// The last time that was taken. No two are equal, since the checker takes equal ones for
    /// overlapping.
    last: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

/// Line of the file that the checker reads.
#[derive(Serialize)]
struct Operation {
    kind: &'static str,
    node: usize,
    session: usize,
    call: u64,
    #[serde(rename = "return")]
    returned: Option<u64>,
    served: Option<bool>,
}

/// Time at which an operation was called, in nanoseconds. Must be taken before the operation starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Called(pub u64);

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// Names a session and a node, and lists the operations that contradict each other.
    Violation(String),
}

impl History {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            operations: Mutex::default(),
        }
    }

    pub fn call(&self) -> Called {
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap();
        let later = |last: u64| Some(now.max(last + 1));
        let last = self.last.fetch_update(SeqCst, SeqCst, later).unwrap();
        Called(now.max(last + 1))
    }

    /// Adds a request that has just been answered.
    pub fn answered(&self, node: usize, session: usize, called: Called, is_served: bool) {
        self.add(Operation {
            kind: "request",
            node,
            session,
            call: called.0,
            returned: Some(self.call().0),
            served: Some(is_served),
        });
    }

    /// Adds a revocation that has just settled.
    pub fn settled(&self, node: usize, session: usize, called: Called) {
        self.revoked(node, session, called, Some(self.call().0));
    }

    /// Adds a revocation that has not settled. It may take effect at any time after its call.
    pub fn unsettled(&self, node: usize, session: usize, called: Called) {
        self.revoked(node, session, called, None);
    }

    fn revoked(&self, node: usize, session: usize, called: Called, returned: Option<u64>) {
        self.add(Operation {
            kind: "revoke",
            node,
            session,
            call: called.0,
            returned,
            served: None,
        });
    }

    fn add(&self, operation: Operation) {
        lock(&self.operations).push(operation);
    }

    /// Checks the history. Returns `None` after a line that says what is skipped if the checker is
    /// not installed.
    pub fn check(&self) -> Option<Verdict> {
        let checker = distribution(DISTRIBUTION)?.join("checker");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let mut file = BufWriter::new(fs::File::create(&path).unwrap());
        for operation in &*lock(&self.operations) {
            serde_json::to_writer(&mut file, operation).unwrap();
            file.write_all(b"\n").unwrap();
        }
        file.flush().unwrap();
        let output = command(checker).arg(&path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        match output.status.code() {
            Some(0) => {
                print!("{text}");
                Some(Verdict::Linearizable)
            }
            Some(1) => Some(Verdict::Violation(text)),
            _ => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Background task that ends with its owner.

use std::{future::Future, sync::Mutex};

use tokio::{runtime::Handle, task::AbortHandle};

use super::mutex::lock;

/// A task that runs at most once at a time, and is aborted when this value is dropped.
#[derive(Default)]
pub(crate) struct BackgroundTask(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    NotStarted,
    Started(AbortHandle),
    Stopped,
}

impl BackgroundTask {
    /// Spawns the task unless it is running. Without a runtime nothing happens; if the runtime of
    /// the previous task has shut down, the task is spawned again.
    pub(crate) fn start<F>(&self, task: impl FnOnce() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut state = lock(&self.0);
        let is_due = match &*state {
            State::NotStarted => true,
            State::Started(task) => task.is_finished(),
            State::Stopped => false,
        };
        if is_due && let Ok(runtime) = Handle::try_current() {
            *state = State::Started(runtime.spawn(task()).abort_handle());
        }
    }

    /// Ends the task. It is not started again.
    pub(crate) fn stop(&self) {
        let state = std::mem::replace(&mut *lock(&self.0), State::Stopped);
        if let State::Started(task) = state {
            task.abort();
        }
    }
}

impl Drop for BackgroundTask {
    fn drop(&mut self) {
        self.stop();
    }
}

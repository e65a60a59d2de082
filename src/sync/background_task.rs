//! Background task that ends with its owner.

use std::{future::Future, sync::Mutex};

use tokio::{runtime::Handle, task::AbortHandle};

use super::mutex::lock;

/// A task that runs at most once at a time, and is aborted when this value is dropped.
#[derive(Default)]
pub(crate) struct BackgroundTask(Mutex<Option<AbortHandle>>);

impl BackgroundTask {
    /// Spawns the task unless it is running. Without a runtime nothing happens; if the runtime of
    /// the previous task has shut down, the task is spawned again.
    pub(crate) fn start<F>(&self, task: impl FnOnce() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut handle = lock(&self.0);
        if handle.as_ref().is_none_or(AbortHandle::is_finished)
            && let Ok(runtime) = Handle::try_current()
        {
            *handle = Some(runtime.spawn(task()).abort_handle());
        }
    }
}

impl Drop for BackgroundTask {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.0).take() {
            task.abort();
        }
    }
}

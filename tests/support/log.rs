//! Records everything that a test's thread logs, at level `trace`.

use std::{
    cell::RefCell,
    io::{self, Write},
    sync::Once,
};

use tracing::Level;

thread_local! {
    static LOG: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Records until it is dropped. All tests share one subscriber, because a subscriber of one thread
/// misses the call sites that another thread has reached first.
pub struct Recording(());

pub fn record() -> Recording {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .with_writer(|| ThisThread)
            .init();
    });
    LOG.set(Some(Vec::new()));
    Recording(())
}

impl Recording {
    pub fn text(&self) -> String {
        let bytes = LOG.with_borrow(|log| log.clone().unwrap_or_default());
        String::from_utf8(bytes).unwrap()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        LOG.set(None);
    }
}

struct ThisThread;

impl Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| {
            if let Some(log) = log {
                log.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Programs that end with the test that started them, however it ends.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Child, Command},
};

/// A command whose process the kernel kills when the thread that spawned it is gone.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    // Not on every system; there `Running` alone cleans up.
    if !setpriv.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "SIGKILL"]).arg(program);
    command
}

/// A child process, killed and reaped on drop.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

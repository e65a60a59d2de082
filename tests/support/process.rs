//! Child processes that end with the test that started them, however it ends.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Child, Command},
};

/// Returns a command whose process the kernel kills when the thread that spawned it has ended.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    // Some systems have no `setpriv`. There only dropping `Running` ends the process.
    if !setpriv.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "SIGKILL"]).arg(program);
    command
}

/// Child process, killed and reaped on drop.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

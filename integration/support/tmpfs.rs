//! A disk of a chosen size: a tmpfs, which only root may mount.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Set where nothing may be mounted, so that tests that need a small disk pass without showing anything.
const NO_MOUNTS: &str = "KITH_NO_MOUNTS";

/// A mounted disk; unmounted when dropped.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one at `path`, which is made. `None` where the tester said that the machine can't do it; a
    /// machine that can't and of which nobody said so fails the test, because nothing would be shown.
    pub fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
        if std::env::var_os(NO_MOUNTS).is_some() {
            eprintln!("NOTHING IS SHOWN: {NO_MOUNTS} says that no small disk can be mounted here");
            return None;
        }
        std::fs::create_dir_all(path).unwrap();
        let size = format!("size={mebibytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "kith-test"]).arg(path).output();
        let mounted = mount.as_ref().is_ok_and(|output| output.status.success());
        assert!(
            mounted,
            "a tmpfs can't be mounted ({mount:?}): run this as root, or set {NO_MOUNTS}=1 to do without"
        );
        Some(Self(path.to_owned()))
    }

    /// Changes its size.
    pub fn resize(&self, mebibytes: u32) {
        let size = format!("remount,size={mebibytes}m");
        let output = Command::new("mount").args(["-o", &size]).arg(&self.0).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Takes all space that is left.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        for step in [1 << 20, 4 << 10] {
            while file.write_all(&vec![0; step]).is_ok() {}
        }
    }

    /// Gives back what [`Self::fill`] took.
    pub fn empty(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process that still ends must not keep it mounted for ever.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

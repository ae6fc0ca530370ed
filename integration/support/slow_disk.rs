//! A disk that takes seconds to sync: a small library in front of the system's, for processes of a test.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/support/slow_disk.c");

/// The disk is slow while a file exists.
#[derive(Debug)]
pub struct SlowDisk {
    library: PathBuf,
    mark: PathBuf,
}

impl SlowDisk {
    /// Builds the library below a directory, with the C compiler that kith needs anyway.
    pub fn build(directory: &Path) -> Self {
        let disk = Self { library: directory.join("slow_disk.so"), mark: directory.join("slow") };
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&disk.library).args([SOURCE, "-ldl"]);
        let built = compiler.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        disk
    }

    /// What a process needs to see this disk.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![("LD_PRELOAD", self.library.clone().into()), ("SLOW_DISK_MARK", self.mark.clone().into())]
    }

    pub fn slow_down(&self) {
        fs::write(&self.mark, "").unwrap();
    }

    pub fn recover(&self) {
        fs::remove_file(&self.mark).unwrap();
    }
}

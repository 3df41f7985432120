//! Volumes made by `mkntfs`, and the judges.

use rehome::{
    disk::{Disk, FileDisk},
    fs::ntfs::Ntfs,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

/// A volume in a folder that goes with it.
pub(crate) struct Image {
    folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

pub(crate) fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?} is needed by this test: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

impl Image {
    /// A volume of `size` bytes made by `mkntfs OPTIONS`. Before, it is full of junk: nothing may be taken for zero that
    /// mkntfs did not write.
    pub(crate) fn make(size: u64, options: &[&str]) -> Self {
        let image = Self::empty();
        let junk: Vec<u8> = (0..size).map(|byte| (byte % 251) as u8 | 0x80).collect();
        fs::write(&image.path, junk).unwrap();
        image.mkntfs(options)
    }

    /// A sparse one.
    pub(crate) fn make_sparse(size: u64, options: &[&str]) -> Self {
        let image = Self::empty();
        fs::File::create(&image.path).unwrap().set_len(size).unwrap();
        image.mkntfs(options)
    }

    /// Nothing yet.
    pub(crate) fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        Self { folder, path }
    }

    fn mkntfs(self, options: &[&str]) -> Self {
        let mut command = Command::new("mkntfs");
        command.args(["-q", "-Q", "-F", "-p", "63", "-H", "255", "-S", "63"]);
        run(command.args(options).arg(&self.path));
        self
    }

    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(FileDisk::open_writable(&self.path).unwrap())
    }

    /// As the boot sector says, up to 64 KiB.
    pub(crate) fn cluster_size(&self) -> u64 {
        let mut boot = [0; 512];
        self.disk().read_at(0, &mut boot).unwrap();
        u64::from(u16::from_le_bytes([boot[0x0b], boot[0x0c]])) * u64::from(boot[0x0d])
    }

    pub(crate) fn open(&self) -> Ntfs {
        Ntfs::open(self.disk()).unwrap()
    }

    /// The first judges: nothing to find for our checker and for `ntfsfix`.
    pub(crate) fn must_be_clean(&self, when: &str) {
        crate::checker::must_be_clean(&self.path, when);
        if let Some(tool) = std::env::var_os("NTFSCK_LOCAL") {
            let output = Command::new(tool).arg("-n").arg(&self.path).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("Clean, No errors"), "{when}: {text}{}", String::from_utf8_lossy(&output.stderr));
        }
        let output = Command::new("ntfsfix").arg("-n").arg(&self.path).output();
        let output = output.expect("ntfsfix is needed by this test");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let sound = output.status.success() && text.contains("processed successfully") && !text.contains("FAILED");
        assert!(sound, "{when}: {text}{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Lets `ntfs-3g` mount the volume and calls `inside` with the mount point; false where it can't be mounted.
    pub(crate) fn mounted(&self, options: &str, inside: impl FnOnce(&Path)) -> bool {
        if !can_mount() {
            eprintln!("skipped: not root, or no /dev/fuse: ntfs-3g is no judge here");
            return false;
        }
        let point = self.folder.path().join("mount");
        fs::create_dir_all(&point).unwrap();
        let options = format!("streams_interface=xattr,{options}");
        run(Command::new("ntfs-3g")
            .args(["-o", &options])
            .arg(&self.path)
            .arg(&point));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| inside(&point)));
        let unmounted = (0..100).any(|attempt| {
            std::thread::sleep(std::time::Duration::from_millis(attempt));
            Command::new("umount").arg(&point).status().unwrap().success()
        });
        assert!(unmounted, "{} stays mounted", point.display());
        // The daemon ends after the mount is gone.
        let released = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            let users = Command::new("fuser").arg(&self.path).output();
            users.map_or(true, |output| !output.status.success())
        });
        assert!(released, "ntfs-3g does not end");
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        true
    }
}

fn can_mount() -> bool {
    let root = run(Command::new("id").arg("-u")).stdout == b"0\n";
    root && Path::new("/dev/fuse").exists()
}

//! Images made by `mkfs`, and the judges: `e2fsck`, `debugfs` and, for root, the kernel's own mount.

use rehome::{
    disk::{Disk, FileDisk},
    fs::ext4::Ext4,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

/// An image in a folder that goes with it.
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
    /// An image of `size` bytes made by `mkfs OPTIONS`. Before, it is full of junk: nothing may be taken for zero that
    /// mkfs did not write.
    pub(crate) fn make(size: u64, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let junk: Vec<u8> = (0..size).map(|byte| (byte % 251) as u8 | 0x80).collect();
        fs::write(&path, junk).unwrap();
        let image = Self { folder, path };
        image.mkfs(
            &["-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"],
            options,
        );
        image
    }

    /// A sparse image.
    pub(crate) fn make_sparse(size: u64, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        let image = Self { folder, path };
        image.mkfs(&[], options);
        image
    }

    fn mkfs(&self, first: &[&str], options: &[&str]) {
        let mut command = Command::new("mke2fs");
        command
            .args(["-q", "-F"])
            .args(first)
            .args(options)
            .arg(&self.path);
        run(&mut command);
    }

    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(FileDisk::open_writable(&self.path).unwrap())
    }

    pub(crate) fn open(&self) -> Ext4 {
        Ext4::open(self.disk()).unwrap()
    }

    /// The first judge: nothing to find.
    pub(crate) fn must_be_clean(&self, when: &str) {
        must_be_clean(&self.path, when);
    }

    /// Lets the kernel mount the image and calls `inside` with the mount point; false where it can't be mounted.
    pub(crate) fn mounted(&self, read_only: bool, inside: impl FnOnce(&Path)) -> bool {
        if !can_mount() {
            eprintln!("not root, or no loop devices: the kernel is no judge here");
            return false;
        }
        let point = self.folder.path().join("mount");
        fs::create_dir_all(&point).unwrap();
        let options = if read_only { "loop,ro" } else { "loop,rw" };
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", options])
            .arg(&self.path)
            .arg(&point));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| inside(&point)));
        // A process that another test has forked, and that has not begun its program yet, holds our files for a moment.
        let unmounted = (0..100).any(|attempt| {
            std::thread::sleep(std::time::Duration::from_millis(attempt));
            Command::new("umount").arg(&point).status().unwrap().success()
        });
        assert!(unmounted, "{} stays mounted", point.display());
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        true
    }

    pub(crate) fn debugfs(&self, request: &str) -> String {
        let output = run(Command::new("debugfs")
            .args(["-w", "-R", request])
            .arg(&self.path));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

pub(crate) fn must_be_clean(path: &Path, when: &str) {
    let output = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(path)
        .output()
        .expect("e2fsck is needed by this test");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.code() == Some(0) && !text.contains("? no"),
        "{when}: {text}"
    );
}

fn can_mount() -> bool {
    let root = run(Command::new("id").arg("-u")).stdout == b"0\n";
    root && Path::new("/dev/loop-control").exists()
}

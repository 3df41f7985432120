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

    /// Where attribute `kind` of file record `number` begins, on a volume with records of 1 KiB of which the first are in one
    /// piece.
    pub(crate) fn attribute(&self, number: u64, kind: u32) -> u64 {
        let start = self.mft() + number * 1024;
        let mut record = [0; 1024];
        self.disk().read_at(start, &mut record).unwrap();
        let long = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
        let mut at = usize::from(u16::from_le_bytes([record[0x14], record[0x15]]));
        while long(at) != kind {
            assert!(long(at) < kind, "record {number} has no attribute {kind:#x}");
            at += long(at + 4) as usize;
        }
        start + at as u64
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.disk().write_at(at, bytes).unwrap();
    }

    fn boot(&self) -> [u8; 512] {
        let mut boot = [0; 512];
        self.disk().read_at(0, &mut boot).unwrap();
        boot
    }

    /// Byte offset of `$MFT`, on a volume with records of 1 KiB.
    pub(crate) fn mft(&self) -> u64 {
        u64::from_le_bytes(self.boot()[0x30..0x38].try_into().unwrap()) * self.cluster_size()
    }

    /// Copies the first records of `$MFT` to `$MFTMirr`.
    pub(crate) fn mirror_again(&self) {
        let mirror = u64::from_le_bytes(self.boot()[0x38..0x40].try_into().unwrap()) * self.cluster_size();
        let mut records = [0; 4096];
        self.disk().read_at(self.mft(), &mut records).unwrap();
        self.disk().write_at(mirror, &records).unwrap();
    }

    /// Byte offset of `$LogFile`, which mkntfs makes in one piece.
    pub(crate) fn log_file(&self) -> u64 {
        let output = run(Command::new("ntfscluster")
            .args(["-f", "-I", "2"])
            .arg(&self.path));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut numbers = text.lines().last().unwrap().split_whitespace();
        let lcn: u64 = numbers.nth(1).unwrap().parse().unwrap();
        lcn * self.cluster_size()
    }

    /// As the boot sector says, up to 64 KiB.
    pub(crate) fn cluster_size(&self) -> u64 {
        let boot = self.boot();
        u64::from(u16::from_le_bytes([boot[0x0b], boot[0x0c]])) * u64::from(boot[0x0d])
    }

    pub(crate) fn open(&self) -> Ntfs {
        Ntfs::open(self.disk()).unwrap()
    }

    /// The first judges: nothing to find for our checker and for `ntfsfix`.
    pub(crate) fn must_be_clean(&self, when: &str) {
        crate::checker::must_be_clean(&self.path, when);
        if let Some(tool) = std::env::var_os("REHOME_NTFSCK") {
            // Of ntfsprogs-plus, where somebody has it.
            let output = Command::new(tool).arg("-n").arg(&self.path).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                text.contains("Clean, No errors"),
                "{when}: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let output = Command::new("ntfsfix").arg("-n").arg(&self.path).output();
        let output = output.expect("ntfsfix is needed by this test");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let sound =
            output.status.success() && text.contains("processed successfully") && !text.contains("FAILED");
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
        let options = format!("no_detach,streams_interface=xattr,{options}");
        let mut daemon = Command::new("ntfs-3g")
            .args(["-o", &options])
            .arg(&self.path)
            .arg(&point)
            .spawn()
            .expect("ntfs-3g is needed by this test");
        let is_mounted = || {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            mounts
                .lines()
                .any(|line| line.split(' ').nth(1) == point.to_str())
        };
        let up = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            is_mounted() || daemon.try_wait().unwrap().is_some()
        });
        assert!(
            up && is_mounted(),
            "ntfs-3g does not mount {} ({options})",
            self.path.display()
        );
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| inside(&point)));
        let unmounted = (0..100).any(|attempt| {
            std::thread::sleep(std::time::Duration::from_millis(attempt));
            Command::new("umount").arg(&point).status().unwrap().success()
        });
        assert!(unmounted, "{} stays mounted", point.display());
        // What it has written is there when it has ended.
        assert!(daemon.wait().unwrap().success(), "ntfs-3g failed");
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

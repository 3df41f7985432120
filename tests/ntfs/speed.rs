//! How fast a large file is read: beside the independent reader, and beside `ntfs-3g`.

use crate::{image::Image, model::Random};
use rehome::fs::{FileSystem, GuestPath, Witness, mode, ntfs::NtfsCrate};
use std::{
    io::Read,
    time::{Duration, Instant},
};

const LENGTH: usize = 500 << 20;
const PIECE: usize = 1 << 20;

/// The shortest of three: what else the machine does only makes it longer.
fn shortest(mut run: impl FnMut()) -> Duration {
    let times = (0..3).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed()
    });
    times.min().unwrap()
}

#[test]
#[ignore = "long: make test-all"]
fn a_file_of_500_mebibytes() {
    let image = Image::make_sparse(700 << 20, &[]);
    let bytes = Random::new(1).bytes(LENGTH);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    let start = Instant::now();
    let node = edit.create(root, b"large", mode::FILE | 0o644).unwrap();
    edit.replace(node, &mut &*bytes).unwrap();
    edit.commit().unwrap();
    let written = start.elapsed();
    drop(fs);
    let expected = blake3::hash(&bytes);
    let mut buffer = vec![0; PIECE];
    let mut ours = |hash: bool| {
        shortest(|| {
            let fs = image.open();
            let mut hasher = blake3::Hasher::new();
            let mut offset = 0;
            while offset < LENGTH {
                let count = fs.read_at(node, offset as u64, &mut buffer).unwrap();
                assert!(count > 0);
                if hash {
                    hasher.update(&buffer[..count]);
                }
                offset += count;
            }
            assert!(!hash || hasher.finalize() == expected);
        })
    };
    let (read, hashed) = (ours(false), ours(true));
    let path = GuestPath::from("/large");
    let theirs = shortest(|| {
        let witness = NtfsCrate::open(image.disk()).unwrap();
        assert!(witness.see(&path).unwrap().is_some());
    });
    let mut mounted = Duration::ZERO;
    for _ in 0..3 {
        image.mounted("ro", |point| {
            let mut file = std::fs::File::open(point.join("large")).unwrap();
            let mut buffer = vec![0; PIECE];
            let start = Instant::now();
            while file.read(&mut buffer).unwrap() > 0 {}
            let time = start.elapsed();
            mounted = if mounted.is_zero() {
                time
            } else {
                mounted.min(time)
            };
        });
    }
    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64().max(f64::EPSILON);
    eprintln!(
        "500 MiB: written in {written:.2?}, read in {read:.2?}; read and hashed {hashed:.2?}, by the ntfs crate {theirs:.2?} (ratio \
         {:.2}); ntfs-3g reads it in {mounted:.2?} (ratio {:.2})",
        ratio(hashed, theirs),
        ratio(read, mounted)
    );
    assert!(hashed <= theirs.mul_f64(1.2), "slower than the ntfs crate");
    assert!(mounted.is_zero() || read <= mounted, "slower than ntfs-3g");
}

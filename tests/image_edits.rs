//! Random writes, zeros and discards in images that lie there, against a plain row of bytes. The judges are that row, our
//! own reader, opened afresh, and `qemu-img`.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod image_judges;

use image_judges::{MIB, extents, must_be_sound_and_equal, pattern, qemu_img, read_all, text};
use proptest::{collection::vec, prelude::*};
use rehome::{
    disk::FileDisk,
    image::{Beside, Format, Image, open_writable},
};
use std::{path::Path, sync::Arc};

/// Format, options, and whether the first content is compressed.
const KINDS: [(&str, &str, bool); 12] = [
    ("qcow2", "compat=1.1", false),
    ("qcow2", "compat=0.10", false),
    ("qcow2", "cluster_size=512,refcount_bits=1", false),
    ("qcow2", "cluster_size=2M", false),
    ("qcow2", "cluster_size=4k,refcount_bits=64", true),
    ("qcow2", "compression_type=zstd", true),
    ("qcow2", "extended_l2=on", false),
    ("qcow2", "extended_l2=on,cluster_size=16k", true),
    ("qcow2", "preallocation=metadata,extended_l2=on", false),
    ("qcow2", "preallocation=full", false),
    ("vdi", "static=off", false),
    ("vdi", "static=on", false),
];

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Zeros(u64, u64),
    Discard(u64, u64),
    /// Closed, and opened again.
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Mostly at places that others touch too, and with borders that tables have.
    let place = prop_oneof![0..=SIZE, (0..=SIZE / 4096).prop_map(|page| page * 4096)];
    let length = prop_oneof![
        1..100_u64,
        1..70_000_u64,
        1..SIZE,
        (1..40_u64).prop_map(|page| page * 65536)
    ];
    let range = (place, length).prop_map(|(at, length)| (at, length.min(SIZE - at)));
    let step = prop_oneof![
        4 => (range.clone(), 1..=255_u8).prop_map(|((at, length), seed)| Step::Write(at, length, seed)),
        2 => range.clone().prop_map(|(at, length)| Step::Zeros(at, length)),
        2 => range.prop_map(|(at, length)| Step::Discard(at, length)),
        1 => Just(Step::Reopen),
    ];
    vec(step, 1..25)
}

const SIZE: u64 = 5 * MIB + 512;

fn open(path: &Path, format: Format) -> Arc<dyn Image> {
    let container = Arc::new(FileDisk::open_writable(path).unwrap());
    open_writable(container, format, &Beside::new(path)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_edited_image_is_the_row_of_bytes(kind in 0..KINDS.len(), filled in any::<bool>(), steps in steps()) {
        let (name, options, compressed) = KINDS[kind];
        let format: Format = name.parse().unwrap();
        let folder = image_judges::folder();
        let (raw, path) = (folder.path().join("raw"), folder.path().join("image"));
        let mut model = vec![0; SIZE as usize];
        if filled {
            model[MIB as usize..3 * MIB as usize].copy_from_slice(&pattern(1, 2 << 20));
        }
        std::fs::write(&raw, &model).unwrap();
        let convert = ["convert", "-f", "raw", "-O", name, "-o", options, text(&raw), text(&path)];
        let compress = if compressed { &["-c"][..] } else { &[] };
        qemu_img(&[&convert[..1], compress, &convert[1..]].concat());
        let mut image = open(&path, format);
        // What a discard gives back: whole clusters of a qcow2, any bytes of a VDI, which become holes of its file.
        let unit = if format == Format::Vdi { 1 } else { image.info().unwrap().unit.unwrap() };
        for step in steps {
            match step {
                Step::Write(at, length, seed) => {
                    let bytes = pattern(seed.into(), length as usize);
                    image.write_at(at, &bytes).unwrap();
                    model[at as usize..(at + length) as usize].copy_from_slice(&bytes);
                }
                Step::Zeros(at, length) => {
                    image.write_zeros(at..at + length).unwrap();
                    model[at as usize..(at + length) as usize].fill(0);
                }
                Step::Discard(at, length) => {
                    image.discard(at..at + length).unwrap();
                    let first = at.next_multiple_of(unit);
                    let end = if at + length == SIZE { SIZE } else { (at + length) / unit * unit };
                    model[first.min(end) as usize..end as usize].fill(0);
                }
                Step::Reopen => {
                    drop(image);
                    image = open(&path, format);
                }
            }
        }
        prop_assert!(read_all(image.as_ref()) == model);
        extents(image.as_ref());
        image.flush().unwrap();
        drop(image);
        std::fs::write(&raw, &model).unwrap();
        must_be_sound_and_equal(name, &path, &raw);
    }
}

//! Edits in place, in every kind of both formats that can be written.

use crate::{judge::*, making::*, sinks::KINDS};
use proptest::prelude::*;
use rehome::{
    disk::FileDisk,
    image::{self, Format, Format::Vhd, Format::Vhdx, NoNeighbours},
};
use std::sync::Arc;

#[test]
fn edits_of_what_qemu_img_made_are_what_it_reads_and_leave_it_sound() {
    let size = 12 * MIB + 512;
    for (seed, (format, options)) in [
        (Vhd, "subformat=dynamic"),
        (Vhd, "subformat=fixed"),
        (Vhd, "subformat=dynamic,force_size=on"),
        (Vhdx, "subformat=dynamic"),
        (Vhdx, "subformat=dynamic,block_size=1M,block_state_zero=off"),
        (Vhdx, "subformat=fixed,block_size=2M"),
    ]
    .into_iter()
    .enumerate()
    {
        let (folder, raw) = raw_source(size);
        let mut model = std::fs::read(&raw).unwrap();
        let image = folder.path().join("image");
        let format_name = format.name();
        qemu_img(&[
            "convert",
            "-f",
            "raw",
            "-O",
            format_name,
            "-o",
            options,
            text(&raw),
            text(&image),
        ]);
        edit_in_place(format, &image, &mut model, seed as u64, 60);
        must_hold_with_leaks(format_name, &image, &model);
        edit_in_place(format, &image, &mut model, seed as u64 + 10, 60);
        must_hold_with_leaks(format_name, &image, &model);
    }
}

#[test]
fn a_file_is_written_to_without_an_overlay_too() {
    for (format, options) in [
        (Vhd, "force_size=on"),
        (Vhdx, "block_size=1M"),
        (Vhdx, "subformat=fixed"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        qemu_img(&[
            "create",
            "-q",
            "-f",
            format.name(),
            "-o",
            options,
            text(&image),
            "9M",
        ]);
        let mut model = vec![0; 9 << 20];
        let container = Arc::new(FileDisk::open_writable(&image).unwrap());
        let disk = image::open_writable(container, format, &NoNeighbours).unwrap();
        // Neighbouring bytes, by different threads.
        std::thread::scope(|scope| {
            for thread in 0..3_u64 {
                let disk = &disk;
                scope.spawn(move || {
                    for step in 0..150 {
                        disk.write_at(step * 60_000 + thread * 1000, &[thread as u8 + 1; 1000])
                            .unwrap();
                    }
                });
            }
        });
        disk.flush().unwrap();
        drop(disk);
        for step in 0..150 {
            for thread in 0..3 {
                model[step * 60_000 + thread * 1000..][..1000].fill(thread as u8 + 1);
            }
        }
        must_hold_with_leaks(format.name(), &image, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_edits_are_those_of_a_plain_vector(seed in any::<u32>(), kind in 0..KINDS.len(), size in 1025..7 * MIB) {
        let (format, kind): (Format, _) = KINDS[kind];
        let shape = shape(format, size / 512 * 512, kind);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let sink = create(&path, &shape);
        // Half of it is there already.
        let half = shape.size / 2 / 4096 * 4096;
        let mut model = vec![0; shape.size as usize];
        model[..half as usize].fill(0x33);
        sink.put(0, &model[..half as usize]).unwrap();
        sink.skip(half..shape.size).unwrap();
        sink.finish().unwrap();
        edit_in_place(format, &path, &mut model, u64::from(seed), 25);
        must_hold(format.name(), &path, &model);
    }
}

//! Deflate streams of ours in images, judged by qemu-img.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use rehome::image::deflate::{Method, compress};
use std::{path::Path, process::Command};

#[track_caller]
fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img")
        .args(arguments)
        .output()
        .expect("qemu-img must be installed");
    assert!(output.status.success(), "qemu-img {arguments:?}: {output:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Without order: no compressor finds anything in it.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

#[test]
fn qemu_img_reads_a_qcow2_cluster_whose_repetitions_are_32_kib_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, image) = (folder.path().join("raw"), folder.path().join("image"));
    // It repeats nothing but what is 32000 bytes before: a window of 4 KiB finds nothing.
    let mut cluster = noise(32_000);
    cluster.extend_from_within(..);
    cluster.extend_from_within(..1536);
    std::fs::write(&raw, &cluster).unwrap();
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&image)]);
    let mut packed = Vec::new();
    compress(Method::QCOW2, &cluster, &mut packed);
    assert!(packed.len() < 34_000, "{} bytes", packed.len());

    // The entry of the cluster in the second-level table: 54 bits of place, then sectors less one, then the flag.
    let mut bytes = std::fs::read(&image).unwrap();
    let word = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let l1 = word(&bytes, 40) as usize;
    let l2 = (word(&bytes, l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let host = (word(&bytes, l2) & 0x00ff_ffff_ffff_fe00) as usize;
    bytes[host..host + packed.len()].copy_from_slice(&packed);
    bytes[host + packed.len()..host + 65536].fill(0xa5);
    let sectors = (packed.len() as u64).div_ceil(512);
    let entry = 1 << 62 | (sectors - 1) << 54 | host as u64;
    bytes[l2..l2 + 8].copy_from_slice(&entry.to_be_bytes());
    std::fs::write(&image, bytes).unwrap();
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", text(&raw), text(&image)]);
}

//! The compressions of initramfs images and kernel modules: told apart by their first bytes, read as streams that
//! end exactly where the compressed data ends.

mod lz4_legacy;
mod lzma_alone;
mod lzo;

use super::read_ahead::ReadAhead;
use std::{
    borrow::Cow,
    fmt,
    io::{self, Read},
};

pub(crate) use lz4_legacy::compress as compress_lz4_legacy;

/// log2 of the largest zstd window: what `zstd --ultra -22` makes. Larger ones would let a small file ask for
/// gigabytes.
const ZSTD_WINDOW_LOG: u32 = 27;
/// KiB for one xz or LZMA decoder: `xz -9` has a dictionary of 64 MiB.
const LZMA_MEMORY: u32 = 96 << 10;

/// How bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The format of `lzma`, also called LZMA alone.
    Lzma,
    /// xz.
    Xz,
    /// The format of `lzop`, with LZO1X.
    Lzo,
    /// The legacy frame of LZ4 (`lz4 -l`), the only one that the kernel reads.
    Lz4Legacy,
    /// RFC 8878.
    Zstd,
}

/// The first bytes of each; the kernel's own list (Linux, lib/decompress.c) is of two bytes, these are as long as
/// the formats allow.
const MAGICS: [(&[u8], Compression); 7] = [
    (&[0x1f, 0x8b, 0x08], Compression::Gzip),
    (b"BZh", Compression::Bzip2),
    (&[0x5d, 0x00, 0x00], Compression::Lzma),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
    (&[0x89, b'L', b'Z', b'O'], Compression::Lzo),
    (&[0x02, 0x21, 0x4c, 0x18], Compression::Lz4Legacy),
    (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
];

impl Compression {
    /// Which compressed stream begins with the bytes `start` (8 are enough); `None`: none that we know.
    pub fn detect(start: &[u8]) -> Option<Self> {
        MAGICS
            .iter()
            .find(|(magic, _)| start.starts_with(magic))
            .map(|(_, compression)| *compression)
    }

    /// As the tools are called: "gzip", "lz4".
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no compression",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lzo => "lzop",
            Self::Lz4Legacy => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the stream at the position of `source` unpacks to. Ends with the stream, having taken nothing of `source`
/// beyond it. Where the kernel reads several streams as one (LZ4 legacy frames without a gap), so does this.
pub(crate) fn unpack<'a, R: Read + 'a>(
    compression: Compression,
    source: &'a mut ReadAhead<R>,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::GzDecoder::new(source)),
        Compression::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(source)),
        Compression::Lzma => Box::new(lzma_alone::LzmaAlone::new(source, LZMA_MEMORY)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(source, false, LZMA_MEMORY)),
        Compression::Lzo => Box::new(lzo::Lzop::new(source)?),
        Compression::Lz4Legacy => Box::new(lz4_legacy::Lz4Legacy::new(source)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

/// Unpacks `bytes` if they are compressed, else gives them as they are: a module file of any kind becomes a plain
/// `.ko`. `what` names it in errors; more than `limit` bytes are refused.
pub fn decompress<'a>(what: &str, bytes: &'a [u8], limit: usize) -> io::Result<Cow<'a, [u8]>> {
    let Some(compression) = Compression::detect(bytes) else {
        return Ok(Cow::Borrowed(bytes));
    };
    let failed = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("{what}: its {compression} data cannot be unpacked: {error}"),
        )
    };
    let mut source = ReadAhead::new(bytes);
    let mut unpacked = Vec::new();
    unpack(compression, &mut source)
        .map_err(failed)?
        .take((limit as u64).saturating_add(1))
        .read_to_end(&mut unpacked)
        .map_err(failed)?;
    if unpacked.len() > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{what}: unpacks to more than {limit} bytes, which no such file has"),
        ));
    }
    Ok(Cow::Owned(unpacked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    /// What `command` makes of `input`.
    fn packed(command: &str, input: &[u8]) -> Vec<u8> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success(), "{command}");
        output.stdout
    }

    /// Compressible here, random there, with long matches and runs.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut bytes = Vec::new();
        while bytes.len() < length {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match state >> 30 {
                0 => bytes.extend_from_slice(&state.to_le_bytes()),
                1 => bytes.extend_from_slice(&[state as u8; 90]),
                2 => bytes.extend_from_slice(b"drivers/block/virtio_blk.ko"),
                _ => {
                    let from = state as usize % (bytes.len() + 1);
                    let piece = bytes[from..].iter().take(700).copied().collect::<Vec<_>>();
                    bytes.extend_from_slice(&piece);
                }
            }
        }
        bytes.truncate(length);
        bytes
    }

    const TOOLS: [(&str, Compression); 10] = [
        ("gzip -n", Compression::Gzip),
        ("bzip2", Compression::Bzip2),
        ("xz --format=lzma", Compression::Lzma),
        ("xz --check=crc32", Compression::Xz),
        ("xz --x86 --lzma2=preset=6", Compression::Xz),
        ("lzop -1", Compression::Lzo),
        ("lzop -9", Compression::Lzo),
        ("lz4 -l -9", Compression::Lz4Legacy),
        ("zstd -19", Compression::Zstd),
        ("zstd -1", Compression::Zstd),
    ];

    #[test]
    fn streams_of_the_tools_end_where_their_data_ends() {
        for length in [0, 1, 3, 1000, 300_000, 1_200_000, 9_000_000] {
            let plain = sample(length);
            for (tool, compression) in TOOLS {
                // Only LZ4 has blocks as large as that.
                if length > 2_000_000 && compression != Compression::Lz4Legacy {
                    continue;
                }
                let stream = packed(&format!("{tool} -c"), &plain);
                assert_eq!(Compression::detect(&stream), Some(compression), "{tool}");
                for rest in [&b""[..], b"\0\0\0\0tail", b"070701tail"] {
                    let whole = [&stream, rest].concat();
                    let mut source = ReadAhead::new(&whole[..]);
                    let mut unpacked = Vec::new();
                    unpack(compression, &mut source)
                        .unwrap()
                        .read_to_end(&mut unpacked)
                        .unwrap_or_else(|error| panic!("{tool} {length}: {error}"));
                    assert!(unpacked == plain, "{tool} {length}");
                    let mut left = Vec::new();
                    source.read_to_end(&mut left).unwrap();
                    assert_eq!(left, rest, "{tool} {length}");
                }
            }
        }
    }

    #[test]
    fn damaged_streams_are_errors_and_never_panic() {
        let plain = sample(5000);
        for (tool, _) in TOOLS {
            let stream = packed(&format!("{tool} -c"), &plain);
            for cut in (8..stream.len()).step_by(101) {
                assert!(
                    decompress("x", &stream[..cut], 1 << 20).is_err() || tool.contains("lz4"),
                    "{tool} {cut}"
                );
            }
            for at in (8..stream.len()).step_by(5) {
                let mut damaged = stream.clone();
                damaged[at] ^= 0x55;
                let _ = decompress("x", &damaged, 1 << 20);
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_and_plain_bytes_pass() {
        let bomb = packed("head -c 3000000 /dev/zero | zstd -c", b"");
        let error = decompress("a.ko.zst", &bomb, 1 << 20).unwrap_err().to_string();
        assert!(
            error.contains("a.ko.zst: unpacks to more than 1048576"),
            "{error}"
        );
        assert_eq!(decompress("a.ko", b"\x7fELF", 1).unwrap(), &b"\x7fELF"[..]);
    }

    #[test]
    fn our_lz4_stream_is_read_by_the_tool() {
        for length in [0, 5, 100_000, (8 << 20) + 5] {
            let plain = sample(length);
            assert!(
                packed("lz4 -dc", &compress_lz4_legacy(&plain)) == plain,
                "{length}"
            );
        }
    }
}

//! The description of the bundle that a disk lies in, `DiskDescriptor.xml`: a disk with snapshots, or in parts, is several
//! files, and none of them tells that by itself.

use super::flaw::Flaw;
use crate::{
    disk::{Kind, Result},
    image::{Format, Neighbours},
};

const NAME: &[u8] = b"DiskDescriptor.xml";

/// Those of bundles with many snapshots have some hundred KiB. In bytes.
const LARGEST: u64 = 4 << 20;

/// The engine of a disk that is not encrypted.
const NO_ENGINE: &str = "{00000000-0000-0000-0000-000000000000}";

/// Refuses the disk called `label` if it is not whole by itself. A disk without a description beside it is.
pub(super) fn must_be_whole(label: &str, neighbours: &dyn Neighbours) -> Result<()> {
    let Ok(description) = neighbours.open(NAME, Some(Format::Raw.name())) else {
        return Ok(());
    };
    let length = description.size().min(LARGEST);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    match description.read_at(0, &mut bytes) {
        // Whoever gives a file without its bytes only wants to know what the disk says of itself.
        Err(error) if error.kind == Kind::NotFound => return Ok(()),
        result => result?,
    }
    judge(&String::from_utf8_lossy(&bytes)).map_err(|flaw| flaw.of(label))
}

fn judge(description: &str) -> std::result::Result<(), Flaw> {
    let images = description.matches("<Image>").count();
    if images > 1 {
        return Err(Flaw::OneOfMany(images));
    }
    let engine = description.split("<Engine>").nth(1);
    let engine = engine
        .and_then(|rest| rest.split("</Engine>").next())
        .map(str::trim);
    match engine {
        None | Some("" | NO_ENGINE) => Ok(()),
        Some(_) => Err(Flaw::Encrypted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_of_several_files_and_encrypted_ones_are_refused() {
        let image = "<Image><Type>Compressed</Type><File>a.hds</File></Image>";
        let engine = |engine: &str| format!("<Encryption><Engine>{engine}</Engine></Encryption>{image}");
        assert_eq!(judge(image), Ok(()));
        assert_eq!(judge(&engine(NO_ENGINE)), Ok(()));
        assert_eq!(judge(&format!("{image}\n{image}")), Err(Flaw::OneOfMany(2)));
        let aes = engine("{8f8d3b1e-0f4c-4f0d-a1a5-5d3b0a3c1a11}");
        assert_eq!(judge(&aes), Err(Flaw::Encrypted));
    }
}

//! Feature flags (kernel documentation, "ext4: Super Block"), and which of them we take on.

use super::error::Ext4Error;

/// `s_feature_compat`: not knowing one of these does no harm.
pub(super) mod compat {
    pub(in super::super) const HAS_JOURNAL: u32 = 0x4;
    pub(in super::super) const EXT_ATTR: u32 = 0x8;
    pub(in super::super) const DIR_INDEX: u32 = 0x20;
    pub(in super::super) const SPARSE_SUPER2: u32 = 0x200;
    pub(in super::super) const ORPHAN_FILE: u32 = 0x1000;
}

/// `s_feature_incompat`: whoever does not know one of these must not touch the filesystem.
pub(super) mod incompat {
    pub(in super::super) const COMPRESSION: u32 = 0x1;
    pub(in super::super) const FILETYPE: u32 = 0x2;
    pub(in super::super) const RECOVER: u32 = 0x4;
    pub(in super::super) const JOURNAL_DEV: u32 = 0x8;
    pub(in super::super) const META_BG: u32 = 0x10;
    pub(in super::super) const EXTENTS: u32 = 0x40;
    pub(in super::super) const BIT64: u32 = 0x80;
    pub(in super::super) const MMP: u32 = 0x100;
    pub(in super::super) const FLEX_BG: u32 = 0x200;
    pub(in super::super) const EA_INODE: u32 = 0x400;
    pub(in super::super) const DIRDATA: u32 = 0x1000;
    pub(in super::super) const CSUM_SEED: u32 = 0x2000;
    pub(in super::super) const LARGE_DIR: u32 = 0x4000;
    pub(in super::super) const INLINE_DATA: u32 = 0x8000;
    pub(in super::super) const ENCRYPT: u32 = 0x1_0000;
    pub(in super::super) const CASEFOLD: u32 = 0x2_0000;

    /// All that we read.
    pub(in super::super) const KNOWN: u32 = FILETYPE
        | RECOVER
        | META_BG
        | EXTENTS
        | BIT64
        | MMP
        | FLEX_BG
        | EA_INODE
        | CSUM_SEED
        | LARGE_DIR
        | INLINE_DATA
        | ENCRYPT
        | CASEFOLD;
}

/// `s_feature_ro_compat`: whoever does not know one of these may read, but not write.
pub(super) mod ro_compat {
    pub(in super::super) const SPARSE_SUPER: u32 = 0x1;
    pub(in super::super) const LARGE_FILE: u32 = 0x2;
    pub(in super::super) const HUGE_FILE: u32 = 0x8;
    pub(in super::super) const GDT_CSUM: u32 = 0x10;
    pub(in super::super) const DIR_NLINK: u32 = 0x20;
    pub(in super::super) const EXTRA_ISIZE: u32 = 0x40;
    pub(in super::super) const QUOTA: u32 = 0x100;
    pub(in super::super) const BIGALLOC: u32 = 0x200;
    pub(in super::super) const METADATA_CSUM: u32 = 0x400;
    pub(in super::super) const READONLY: u32 = 0x1000;
    pub(in super::super) const PROJECT: u32 = 0x2000;
    pub(in super::super) const VERITY: u32 = 0x8000;
    pub(in super::super) const ORPHAN_PRESENT: u32 = 0x1_0000;

    /// All that an edit keeps right. `btree_dir` (0x4) was never made by anybody; it is refused like an unknown bit.
    pub(in super::super) const EDITABLE: u32 = SPARSE_SUPER
        | LARGE_FILE
        | HUGE_FILE
        | GDT_CSUM
        | DIR_NLINK
        | EXTRA_ISIZE
        | METADATA_CSUM
        | PROJECT
        | VERITY
        | ORPHAN_PRESENT;
}

/// The names of `dumpe2fs` for the bits of `s_feature_incompat` that we don't read.
pub(super) fn check_incompat(incompat: u32) -> Result<(), Ext4Error> {
    let unknown = incompat & !incompat::KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let mut names = Vec::new();
    for bit in (0..32)
        .map(|shift| 1_u32 << shift)
        .filter(|bit| unknown & bit != 0)
    {
        names.push(match bit {
            incompat::COMPRESSION => "compression".to_owned(),
            incompat::JOURNAL_DEV => "journal_dev (this is an external journal, not a filesystem)".to_owned(),
            incompat::DIRDATA => "dirdata".to_owned(),
            other => format!("FEATURE_I{} ({other:#x})", other.trailing_zeros()),
        });
    }
    Err(Ext4Error::Unsupported(format!(
        "uses the incompatible feature {}, which rehome does not know; it can be moved as a raw volume only",
        names.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_incompatible_features_are_named() {
        assert!(check_incompat(incompat::KNOWN).is_ok());
        let text = check_incompat(incompat::EXTENTS | incompat::DIRDATA | 0x40_0000)
            .unwrap_err()
            .to_string();
        assert!(text.contains("dirdata, FEATURE_I22 (0x400000)"), "{text}");
    }
}

//! The report: one struct, one schema version, written as `report.json` and as a readable summary.

use crate::{
    disk::Digest,
    guest::Guest,
    image::ova::Hardware,
    plan::Plan,
    rewrite::Change,
    volume::{Partition, TableKind},
};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};

/// Schema version of [`Report`] as JSON. A field that is added leaves it; a field that changes its meaning or goes raises it.
pub const REPORT_SCHEMA: u32 = 1;

/// What was found, decided and done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_SCHEMA`].
    pub schema: u32,
    /// "rehome 0.1.0".
    pub program: String,
    /// "inspect", "convert", "in-place".
    pub command: String,
    /// The disks it was given, in order.
    pub sources: Vec<SourceFacts>,
    /// What the packages among them say of themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<PackageFacts>,
    /// The volumes that were found on them.
    pub volumes: Vec<VolumeFacts>,
    /// Every installed system.
    pub guests: Vec<Guest>,
    /// Damaged tables, filesystems that could not be opened: what somebody should look at.
    pub warnings: Vec<String>,
    /// What was decided; `None` for an inspection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// Every file that was changed.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// Who looked at the changes, per volume.
    #[serde(default)]
    pub judgements: Vec<Judgement>,
    /// The disks that were written, in order of the sources.
    #[serde(default)]
    pub disks: Vec<DiskWritten>,
    /// How long each stage took.
    #[serde(default)]
    pub stages: Vec<StageTime>,
}

/// A disk that was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// As it was named.
    pub disk: String,
    /// "raw", "qcow2".
    pub format: String,
    /// In bytes.
    pub size: u64,
    /// Logical sector in bytes.
    pub sector_size: u32,
    /// Its partition table.
    pub table: Option<TableKind>,
}

/// A package that disks were read from: an OVA, or an OVF in a folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackageFacts {
    /// As it was named.
    pub package: String,
    /// The machine that it describes.
    pub hardware: Hardware,
    /// What became of its digests.
    pub manifest: ManifestState,
}

/// What is known of a package by its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ManifestState {
    /// There is none.
    Absent,
    /// There is one, and nobody has compared it: that takes reading all of the package.
    NotRead,
    /// Every file has the digest that is written there.
    Verified,
}

/// A volume that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeFacts {
    /// "disk0/p1".
    pub id: String,
    /// In bytes.
    pub size: u64,
    /// What the partition table says.
    pub partition: Option<Partition>,
    /// "ext4", "vfat", "swap", "xfs"; `None`: nothing that we know.
    pub kind: Option<String>,
    /// As `UUID=` spells it.
    pub uuid: Option<String>,
    /// As `LABEL=` spells it.
    pub label: Option<String>,
    /// What was done on opening: a journal replayed, orphans released.
    pub recovered: Vec<String>,
}

/// What the judges of the edits on one volume said; an objection would have stopped the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Volume id.
    pub volume: String,
    /// Bytes that were written on it, all of them metadata, free before, or of the changed files.
    pub audited_bytes: u64,
    /// Files whose contents and attributes a fresh reader of ours saw as intended.
    pub files_read_back: usize,
    /// The independent reader that agreed; `None`: read back by one reader.
    pub witness: Option<String>,
}

/// A disk that was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskWritten {
    /// File name at the destination.
    pub name: String,
    /// "qcow2", "raw".
    pub format: String,
    /// Virtual size in bytes.
    pub size: u64,
    /// Bytes that were read from the source and the overlay.
    pub read: u64,
    /// Bytes that were handed to the destination.
    pub written: u64,
    /// Bytes that were zeros, holes, or free space, and were not.
    pub skipped: u64,
    /// Bytes that an earlier run had written, and that were trusted.
    pub resumed: u64,
    /// Bytes of free space, swap and unwritten runs that were left behind.
    pub discarded: u64,
    /// Hash of the contents as `docs/ledger.md` defines it; `None` where hashing was off.
    pub hash: Option<Digest>,
    /// Was it read back and found equal?
    pub verified: bool,
}

/// Duration of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    /// "inspect", "plan", "rewrite", "copy", "verify".
    pub stage: String,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl Report {
    /// Every file of every package has the digest of its manifest, where there is one.
    pub fn manifests_are_verified(&mut self) {
        for package in &mut self.packages {
            if package.manifest == ManifestState::NotRead {
                package.manifest = ManifestState::Verified;
            }
        }
    }

    /// What passed through a pipe had no manifest at its end.
    pub fn manifests_are_absent(&mut self) {
        for package in &mut self.packages {
            if package.manifest == ManifestState::NotRead {
                package.manifest = ManifestState::Absent;
            }
        }
    }

    /// Nothing yet.
    pub fn new(command: &str) -> Self {
        Self {
            schema: REPORT_SCHEMA,
            program: concat!("rehome ", env!("CARGO_PKG_VERSION")).to_owned(),
            command: command.to_owned(),
            sources: Vec::new(),
            packages: Vec::new(),
            volumes: Vec::new(),
            guests: Vec::new(),
            warnings: Vec::new(),
            plan: None,
            changes: Vec::new(),
            judgements: Vec::new(),
            disks: Vec::new(),
            stages: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for source in &self.sources {
            let table = match source.table {
                Some(TableKind::Gpt) => "GPT",
                Some(TableKind::Mbr) => "MBR",
                None => "no partition table",
            };
            let (size, sector) = (Bytes(source.size), source.sector_size);
            writeln!(
                f,
                "{}: {}, {size}, sectors of {sector}, {table}",
                source.disk, source.format
            )?;
        }
        print_packages(f, &self.packages)?;
        for volume in &self.volumes {
            let mut line = format!("  {:<12} {:>10}", volume.id, Bytes(volume.size).to_string());
            let _ = write!(line, "  {}", volume.kind.as_deref().unwrap_or("unknown"));
            for (what, name) in [("UUID", &volume.uuid), ("LABEL", &volume.label)] {
                if let Some(name) = name {
                    let _ = write!(line, " {what}={name}");
                }
            }
            writeln!(f, "{line}")?;
            for sentence in &volume.recovered {
                writeln!(f, "               {sentence}")?;
            }
        }
        for guest in &self.guests {
            print_guest(f, guest)?;
        }
        print_warnings(f, &self.warnings)?;
        if !self.changes.is_empty() {
            writeln!(f, "changed:")?;
        }
        for change in &self.changes {
            let verb = match (change.was, change.is) {
                (None, _) => "made",
                (_, None) => "removed",
                _ => "edited",
            };
            writeln!(f, "  {verb:<8} {} on {}", change.path, change.volume)?;
        }
        for judged in &self.judgements {
            let witness = match &judged.witness {
                Some(witness) => format!("{witness} agrees"),
                None => "read back by one reader".to_owned(),
            };
            let (bytes, files) = (Bytes(judged.audited_bytes), judged.files_read_back);
            writeln!(
                f,
                "judged: {}: {bytes} written, {files} files read back, {witness}",
                judged.volume
            )?;
        }
        for disk in &self.disks {
            write!(f, "{disk}")?;
        }
        print_stages(f, &self.stages)
    }
}

pub(super) fn print_packages(f: &mut fmt::Formatter<'_>, packages: &[PackageFacts]) -> fmt::Result {
    for package in packages {
        let manifest = match package.manifest {
            ManifestState::Absent => "has no manifest",
            ManifestState::NotRead => "its manifest was not compared",
            ManifestState::Verified => "every file is as its manifest says",
        };
        writeln!(
            f,
            "{}: {manifest}; describes {}",
            package.package, package.hardware
        )?;
    }
    Ok(())
}

pub(super) fn print_warnings(f: &mut fmt::Formatter<'_>, warnings: &[String]) -> fmt::Result {
    for warning in warnings {
        writeln!(f, "warning: {warning}")?;
    }
    Ok(())
}

pub(super) fn print_stages(f: &mut fmt::Formatter<'_>, stages: &[StageTime]) -> fmt::Result {
    if stages.is_empty() {
        return Ok(());
    }
    let times = stages.iter().map(|s| format!("{} {:.2} s", s.stage, s.seconds));
    writeln!(f, "time: {}", times.collect::<Vec<_>>().join(", "))
}

impl fmt::Display for DiskWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verified = if self.verified { ", verified" } else { "" };
        writeln!(
            f,
            "wrote {} ({}, {}): read {}, wrote {}, left out {} of zeros and free space{verified}",
            self.name,
            self.format,
            Bytes(self.size),
            Bytes(self.read),
            Bytes(self.written),
            Bytes(self.skipped),
        )?;
        match self.hash {
            Some(hash) => writeln!(f, "  blake3 {hash}"),
            None => writeln!(f, "  not hashed"),
        }
    }
}

fn print_guest(f: &mut fmt::Formatter<'_>, guest: &Guest) -> fmt::Result {
    writeln!(f, "{} on {}", guest.name, guest.root)?;
    if let Some(hostname) = &guest.hostname {
        writeln!(f, "  hostname   {hostname}")?;
    }
    writeln!(
        f,
        "  boots by   {:?}: {}",
        guest.boot.firmware, guest.boot.firmware_because
    )?;
    if let Some(loader) = &guest.boot.loader {
        writeln!(f, "  loader     {:?}, {}", loader.kind, loader.config)?;
    }
    for kernel in &guest.kernels {
        let default = if kernel.default { " (default)" } else { "" };
        writeln!(f, "  kernel     {}{default}", kernel.release)?;
    }
    for mount in &guest.mounts {
        let place = mount
            .path
            .as_ref()
            .map_or_else(|| "swap".to_owned(), ToString::to_string);
        writeln!(
            f,
            "  mounts     {place} from {} ({})",
            mount.volume, mount.identity.kind
        )?;
    }
    for file in &guest.swap_files {
        writeln!(f, "  swap file  {} on {}", file.path, file.volume)?;
    }
    for interface in &guest.interfaces {
        let name = interface.name.as_deref().unwrap_or("(any)");
        let mut how = interface.addresses.clone();
        if interface.dhcp {
            how.push("DHCP".to_owned());
        }
        let place = format!("{}:{}", interface.path, interface.line);
        writeln!(f, "  network    {name}: {} ({place})", how.join(", "))?;
    }
    for name in &guest.device_names {
        writeln!(f, "  names      {} in {}:{}", name.name, name.path, name.line)?;
    }
    for remark in &guest.remarks {
        writeln!(f, "  remark     {remark}")?;
    }
    for blocker in &guest.blockers {
        writeln!(f, "  blocker    {blocker}")?;
    }
    Ok(())
}

/// A number of bytes for people: "1.5 GiB".
#[derive(Clone, Copy, Debug)]
pub struct Bytes(
    /// The number.
    pub u64,
);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        // Tenths, so that no floating point is needed.
        let mut tenths = u128::from(self.0) * 10 / 1024;
        let mut unit = "KiB";
        for next in UNITS.iter().skip(1) {
            if tenths < 10240 {
                break;
            }
            tenths /= 1024;
            unit = next;
        }
        write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_the_largest_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (4 << 30, "4.0 GiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(Bytes(u64::MAX).to_string(), "15.9 EiB");
    }

    #[test]
    fn a_report_survives_json() {
        let report = Report::new("inspect");
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        assert!(json.starts_with(r#"{"schema":1,"#));
    }
}

//! From disks to volumes.

use super::{
    Scan, Volume, gpt,
    mbr::{self, FirstSector},
    table::{DiskFacts, Table, Warnings},
};
use crate::disk::{Composite, Disk, Part, Result};
use std::sync::Arc;

/// Reads the partition tables of `disks`. A disk without a table is one volume; the containers of logical
/// partitions are none. Damaged tables give warnings; an error means that a disk could not be read.
pub fn scan(disks: &[Arc<dyn Disk>]) -> Result<Scan> {
    let mut scan = Scan::default();
    for (index, disk) in disks.iter().enumerate() {
        let facts = DiskFacts {
            index,
            label: disk.label().to_owned(),
            size: disk.size(),
        };
        let mut warnings = Warnings::new(disk.label());
        let table = read_table(disk, &facts, &mut warnings)?;
        scan.warnings.extend(warnings.into_vec());
        let id = format!("disk{index}");
        scan.tables.push(table.as_ref().map(|table| table.kind));
        match table {
            Some(table) => add_partitions(&mut scan, disk, &id, table)?,
            None => scan.volumes.push(Volume {
                id,
                parents: Vec::new(),
                disk: disk.clone(),
                partition: None,
            }),
        }
    }
    Ok(scan)
}

fn add_partitions(scan: &mut Scan, disk: &Arc<dyn Disk>, id: &str, table: Table) -> Result<()> {
    for partition in table.partitions {
        let label = format!("{} partition {}", disk.label(), partition.number);
        // Not `Composite::slice`: the table may count in other sectors than the disk says.
        let part = Part::Of {
            disk: disk.clone(),
            offset: partition.offset,
            length: partition.length,
        };
        scan.volumes.push(Volume {
            id: format!("{id}/p{}", partition.number),
            parents: vec![id.to_owned()],
            disk: Arc::new(Composite::new(label, table.sector_size, vec![part])?),
            partition: Some(partition),
        });
    }
    scan.warnings.extend(table.warnings.into_vec());
    Ok(())
}

fn read_table(disk: &Arc<dyn Disk>, facts: &DiskFacts, warnings: &mut Warnings) -> Result<Option<Table>> {
    if facts.size < mbr::RECORD as u64 {
        return Ok(None);
    }
    let mut record = [0; mbr::RECORD];
    disk.read_at(0, &mut record)?;
    match mbr::classify(&record, facts.size, disk.sector_size()) {
        FirstSector::Protective { hybrid } => {
            let table = gpt::read(disk, facts)?;
            if hybrid {
                warnings.say(
                    "has a hybrid MBR: the GPT beside it is used, as Linux does; other systems may see other \
                     partitions",
                );
            }
            Ok(Some(table))
        }
        FirstSector::Table(header) => {
            if gpt::has_sound_primary(disk)? {
                warnings.say(
                    "has a GPT that its MBR does not announce: the MBR is used, as Linux does; the GPT is probably \
                     a remainder",
                );
            }
            mbr::read(disk, facts, &header).map(Some)
        }
        FirstSector::NoTable if gpt::has_sound_primary(disk)? => {
            let table = gpt::read(disk, facts)?;
            warnings.say(
                "has a GPT without the protective MBR in front of it: the GPT is used, but Linux would not see its \
                 partitions",
            );
            Ok(Some(table))
        }
        FirstSector::NoTable | FirstSector::BootSector => Ok(None),
    }
}

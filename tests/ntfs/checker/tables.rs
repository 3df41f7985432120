//! The volume's own tables: bitmaps, copies, security descriptors, what is kept of reparse points and object ids.

use super::*;

impl Checker {
    pub(super) fn check_bitmaps(&mut self) {
        let mut used = vec![0_u8; self.clusters as usize];
        let mut twice = Vec::new();
        for record in self.records.values().filter(|record| record.flags & IN_USE != 0) {
            for part in &record.parts {
                for (_, lcn, clusters) in &part.runs {
                    let Some(lcn) = lcn else { continue };
                    for cluster in *lcn..lcn + clusters {
                        match used.get_mut(cluster as usize) {
                            Some(0) => used[cluster as usize] = 1,
                            _ => twice.push((part.record, part.kind, cluster)),
                        }
                    }
                }
            }
        }
        if let Some(first) = twice.first() {
            self.problem(format!(
                "{} clusters twice or outside, first (record, type, cluster) {first:?}",
                twice.len()
            ));
        }
        let bitmap = self.attribute(6, 0x80, &[]).expect("$Bitmap");
        let bitmap = self.contents(&bitmap);
        let wrong: Vec<usize> = used
            .iter()
            .enumerate()
            .filter(|(cluster, used)| bitmap[cluster / 8] >> (cluster % 8) & 1 != **used)
            .map(|(cluster, _)| cluster)
            .collect();
        if let Some(first) = wrong.first() {
            self.problem(format!(
                "$Bitmap is wrong of {} clusters, first {first}: {} used",
                wrong.len(),
                used[*first]
            ));
        }
        let records = self.attribute(0, 0xb0, &[]).expect("bitmap of $MFT");
        let records = self.contents(&records);
        for number in 24..records.len() as u64 * 8 {
            let said = records[number as usize / 8] >> (number % 8) & 1 == 1;
            let used = self
                .records
                .get(&number)
                .is_some_and(|record| record.flags & IN_USE != 0);
            if said != used {
                self.problem(format!(
                    "record {number}: used {used}, the bitmap of $MFT says {said}"
                ));
            }
        }
        let data = self.attribute(0, 0x80, &[]).expect("$MFT");
        if data.size != data.initialized || records.len() as u64 * 8 < self.count {
            self.problem(format!(
                "$MFT: {} of {} bytes initialized, {} bits",
                data.initialized,
                data.size,
                records.len() * 8
            ));
        }
    }

    pub(super) fn check_mirror(&mut self) {
        let mirror = self.attribute(1, 0x80, &[]).expect("$MFTMirr");
        let mirror = self.contents(&mirror);
        let mft = self.attribute(0, 0x80, &[]).expect("$MFT");
        let mft = self.contents(&mft);
        let length = mirror.len().min(mft.len());
        if mirror[..length] != mft[..length] {
            self.problem("$MFTMirr is not the start of $MFT".to_owned());
        }
    }

    /// The boot sector is there once more, behind the last sector that it counts.
    pub(super) fn check_boot_copy(&mut self) {
        let sector = usize::from(u16_at(&self.bytes, 0x0b));
        let at = u64_at(&self.bytes, 0x28) as usize * sector;
        if self.bytes.get(at..at + 512) != Some(&self.bytes[..512]) {
            self.problem("the last sector is no copy of the boot sector".to_owned());
        }
    }

    pub(super) fn check_secure(&mut self) {
        let name = |name: &str| name.encode_utf16().collect::<Vec<u16>>();
        let stream = self.attribute(9, 0x80, &name("$SDS")).expect("$SDS");
        let stream = self.contents(&stream);
        let data = |entry: &[u8]| {
            let at = usize::from(u16_at(entry, 0));
            entry[at..at + usize::from(u16_at(entry, 2))].to_vec()
        };
        let mut by_id = BTreeMap::new();
        let mut last = None;
        for entry in self.walk(9, &name("$SII")) {
            let data = data(&entry);
            let id = u32_at(&entry, 16);
            if last.is_some_and(|last| last >= id) {
                self.problem(format!("$SII: {id} is out of order"));
            }
            last = Some(id);
            let (offset, size) = (u64_at(&data, 8) as usize, u32_at(&data, 16) as usize);
            let here = stream.get(offset..offset + size).map(<[u8]>::to_vec);
            let copy = stream
                .get(offset + 0x4_0000..offset + 0x4_0000 + size)
                .map(<[u8]>::to_vec);
            if here != copy || here.as_ref().is_none_or(|here| here[..20] != data[..20]) || offset % 16 != 0 {
                self.problem(format!("$SDS: descriptor {id} at {offset:#x} is not there twice"));
                continue;
            }
            let here = here.unwrap();
            let hash = here[20..].chunks_exact(4).fold(0_u32, |hash, word| {
                hash.rotate_left(3).wrapping_add(u32_at(word, 0))
            });
            if hash != u32_at(&data, 0) || id != u32_at(&data, 4) || size < 20 {
                self.problem(format!(
                    "$SDS: descriptor {id} has hash {hash:#x}, {:#x} said",
                    u32_at(&data, 0)
                ));
            }
            by_id.insert(id, data);
        }
        let mut hashes = Vec::new();
        for entry in self.walk(9, &name("$SDH")) {
            let data = data(&entry);
            hashes.push((u32_at(&entry, 16), u32_at(&entry, 20)));
            if by_id.get(&u32_at(&entry, 20)) != Some(&data) {
                self.problem(format!("$SDH: {} is not what $SII says", u32_at(&entry, 20)));
            }
        }
        if hashes.len() != by_id.len() || !hashes.is_sorted() {
            self.problem(format!(
                "$SDH: {} descriptors, {} in $SII",
                hashes.len(),
                by_id.len()
            ));
        }
        for number in self.files() {
            let Some(information) = self.attribute(number, 0x10, &[]).and_then(|whole| whole.value) else {
                continue;
            };
            if information.len() >= 0x48 {
                let id = u32_at(&information, 0x34);
                if id != 0 && !by_id.contains_key(&id) {
                    self.problem(format!("file {number}: no descriptor {id}"));
                }
            }
        }
    }

    fn named(&self, directory: u64, name: &str) -> Option<u64> {
        let wanted: Vec<u16> = name.encode_utf16().collect();
        self.files().into_iter().find(|number| {
            self.records[number].parts.iter().any(|part| {
                part.kind == 0x30
                    && part.value.as_ref().is_some_and(|value| {
                        u64_at(value, 0) & 0xffff_ffff_ffff == directory
                            && units(&value[0x42..0x42 + usize::from(value[0x40]) * 2]) == wanted
                    })
            })
        })
    }

    pub(super) fn check_extensions(&mut self) {
        let name = |name: &str| name.encode_utf16().collect::<Vec<u16>>();
        if let Some(index) = self.named(11, "$Reparse") {
            let mut said: Vec<_> = self
                .walk(index, &name("$R"))
                .iter()
                .map(|entry| entry[16..28].to_vec())
                .collect();
            let mut there = Vec::new();
            for number in self.files() {
                if let Some(reparse) = self.attribute(number, 0xc0, &[]) {
                    let reference = number | u64::from(self.records[&number].sequence) << 48;
                    let tag = u32_at(&self.contents(&reparse), 0);
                    there.push([&tag.to_le_bytes()[..], &reference.to_le_bytes()].concat());
                }
            }
            said.sort();
            there.sort();
            if said != there {
                self.problem(format!("$Reparse: {said:x?}, there are {there:x?}"));
            }
        }
        if let Some(index) = self.named(11, "$ObjId") {
            let mut said: Vec<_> = self
                .walk(index, &name("$O"))
                .iter()
                .map(|entry| entry[16..32].to_vec())
                .collect();
            let files = self.files();
            let ids = files
                .iter()
                .filter(|number| **number >= 24)
                .filter_map(|number| self.attribute(*number, 0x40, &[]));
            let mut there: Vec<_> = ids.map(|id| id.value.unwrap()[..16].to_vec()).collect();
            said.sort();
            there.sort();
            if said != there {
                self.problem(format!("$ObjId: {said:x?}, there are {there:x?}"));
            }
        }
    }
}

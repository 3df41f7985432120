//! Driver packages: an INF file and the files that it names. They are found by what they hold, never by the names of their
//! folders.

use super::{
    catalog::Catalog,
    inf::{Inf, InfError, Installation, LARGEST_INF, Version},
    inf_rank::SignatureClass,
    package_source::{PackageSource, SourceEntry},
    pe::Pe,
    signed_data::DigestAlgorithm,
    windows_version::{Architecture, Target},
};
use crate::{
    disk::{Error, Kind},
    fs::Result,
};
use std::collections::{BTreeMap, HashMap};

/// INF files of one place together. Those of a whole DriverStore have 40 MiB.
const MOST_INF_BYTES: usize = 64 << 20;
/// A driver that starts a machine; display drivers have more, and are not looked into.
const LARGEST_DRIVER: usize = 32 << 20;
/// Catalogs have up to 1 MiB; those of display drivers more.
const LARGEST_CATALOG: usize = 16 << 20;

/// An INF file, and where it lies.
#[derive(Clone, Debug)]
pub struct Package {
    /// Of the INF file in its source: "viostor/w10/amd64/viostor.inf".
    pub path: String,
    /// The file, or why it cannot be used.
    pub inf: std::result::Result<Inf, InfError>,
}

/// All packages of one place.
#[derive(Debug)]
pub struct Packages {
    /// As the user named it.
    pub label: String,
    /// In the order of their paths.
    pub packages: Vec<Package>,
    /// Paths in lower case, and as they are.
    files: HashMap<String, String>,
}

impl Packages {
    /// Finds all INF files of `source` and reads them.
    ///
    /// # Errors
    /// Those of reading; `Unsupported` for more than any driver collection has.
    pub fn find(source: &dyn PackageSource) -> Result<Self> {
        let listed = source.list()?;
        let mut packages = Vec::new();
        let mut bytes = 0_usize;
        for entry in listed
            .iter()
            .filter(|entry| is_inf(&entry.path) && entry.size > LARGEST_INF as u64)
        {
            let error = InfError::TooLarge {
                size: entry.size,
                most: LARGEST_INF,
            };
            packages.push(Package {
                path: entry.path.clone(),
                inf: Err(error),
            });
        }
        let too_large: Vec<String> = packages.iter().map(|package| package.path.clone()).collect();
        source.visit(&|path| is_inf(path) && !too_large.iter().any(|large| large == path), LARGEST_INF, &mut |path, contents| {
            bytes = bytes.saturating_add(contents.len());
            if bytes > MOST_INF_BYTES {
                let text = format!("holds more than {MOST_INF_BYTES} bytes of INF files; name a folder with the drivers that are wanted");
                return Err(Error::new(Kind::Unsupported, source.label(), text));
            }
            packages.push(Package {
                path: path.to_owned(),
                inf: Inf::parse(&contents),
            });
            Ok(())
        })?;
        packages.sort_by(|one, other| one.path.cmp(&other.path));
        let files = listed
            .into_iter()
            .map(|SourceEntry { path, .. }| (path.to_lowercase(), path))
            .collect();
        Ok(Self {
            label: source.label().to_owned(),
            packages,
            files,
        })
    }

    /// The path of a file that an INF file names, as it is spelled in the source.
    fn beside(&self, package: &Package, folder: &[String], name: &str) -> Option<&str> {
        let mut path: Vec<&str> = Vec::new();
        path.extend(package.path.rsplit_once('/').map(|(folder, _)| folder));
        path.extend(folder.iter().map(String::as_str));
        path.push(name);
        self.files.get(&path.join("/").to_lowercase()).map(String::as_str)
    }

    /// The files of a package that one installation needs.
    pub fn files_of(
        &self,
        package: &Package,
        version: &Version,
        installation: &Installation,
        target: &Target,
    ) -> PackageFiles {
        let mut files = PackageFiles::default();
        if let Some(catalog) = version.catalog(target) {
            files.catalog = self.beside(package, &[], catalog).map(str::to_owned);
            if files.catalog.is_none() {
                files.missing.push(format!("its catalog {catalog}"));
            }
        }
        for copy in &installation.copies {
            let source = &copy.source;
            // Without a list of disks in the file, what Windows has on its own media is not missing here.
            if !source.listed && !version.layout_files.is_empty() {
                continue;
            }
            let wanted = source.cabinet.as_ref().unwrap_or(&source.name);
            let folder = if source.cabinet.is_some() {
                &[][..]
            } else {
                &source.folder
            };
            match self.beside(package, folder, wanted) {
                Some(path) => {
                    files
                        .present
                        .insert(copy.destination.name.to_lowercase(), path.to_owned());
                }
                None => files.missing.push(self.why_missing(package, folder, wanted)),
            }
        }
        files.missing.sort();
        files.missing.dedup();
        files
    }

    fn why_missing(&self, package: &Package, folder: &[String], name: &str) -> String {
        let packed: String = name
            .chars()
            .take(name.chars().count().saturating_sub(1))
            .chain(['_'])
            .collect();
        match self.beside(package, folder, &packed) {
            Some(_) => format!("{name} (only packed, as {packed}: expand it first)"),
            None => [folder.join("/").as_str(), name]
                .join("/")
                .trim_start_matches('/')
                .to_owned(),
        }
    }
}

/// What an installation needs and whether it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackageFiles {
    /// The catalog's path.
    pub catalog: Option<String>,
    /// Paths by the name that a file gets on the system, in lower case.
    pub present: BTreeMap<String, String>,
    /// What is not there.
    pub missing: Vec<String>,
}

impl PackageFiles {
    /// The path of the file that the service of a device runs.
    pub fn binary_of(&self, installation: &Installation) -> Option<&str> {
        let service = installation
            .services
            .iter()
            .find(|service| service.is_of_the_device())?;
        let binary = service.binary.as_deref()?.rsplit(['\\', '/']).next()?;
        self.present.get(&binary.to_lowercase()).map(String::as_str)
    }
}

/// What the files of a package say: its driver and its catalog.
#[derive(Clone, Debug, Default)]
pub struct LookedInto {
    drivers: HashMap<String, std::result::Result<Pe, String>>,
    catalogs: HashMap<String, Option<Catalog>>,
}

impl LookedInto {
    /// Reads the drivers and catalogs at these paths, in one pass over `source`.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(source: &dyn PackageSource, drivers: &[String], catalogs: &[String]) -> Result<Self> {
        let mut seen = Self::default();
        source.visit(
            &|path| drivers.iter().any(|wanted| wanted == path),
            LARGEST_DRIVER,
            &mut |path, contents| {
                let driver = Pe::parse(&contents).map_err(|error| error.to_string());
                seen.drivers.insert(path.to_owned(), driver);
                Ok(())
            },
        )?;
        source.visit(
            &|path| catalogs.iter().any(|wanted| wanted == path),
            LARGEST_CATALOG,
            &mut |path, contents| {
                seen.catalogs.insert(path.to_owned(), Catalog::parse(&contents));
                Ok(())
            },
        )?;
        Ok(seen)
    }

    /// What a package's catalog means for its rank.
    pub fn signature_class(&self, files: &PackageFiles, installation: &Installation) -> SignatureClass {
        let catalog = files
            .catalog
            .as_ref()
            .and_then(|path| self.catalogs.get(path)?.as_ref());
        match catalog {
            Some(catalog) if !catalog.digests.is_empty() => SignatureClass::Signed,
            _ if installation.section.to_lowercase().contains(".nt") => SignatureClass::UnsignedForNt,
            _ => SignatureClass::Unsigned,
        }
    }

    /// Why the driver at `path` cannot run on `target`, and what somebody should know of it.
    pub fn judge(&self, path: &str, starts_at_boot: bool, target: &Target) -> Judgement {
        let mut judgement = Judgement::default();
        let driver = match self.drivers.get(path) {
            Some(Ok(driver)) => driver,
            Some(Err(error)) => {
                judgement.objections.push(format!("{path} {error}"));
                return judgement;
            }
            None => return judgement,
        };
        if driver.architecture != Some(target.architecture) {
            let built = driver
                .architecture
                .map_or("another processor", Architecture::name);
            judgement.objections.push(format!(
                "{path} is built for {built}, not for {}",
                target.architecture
            ));
        }
        if !driver.native {
            judgement
                .objections
                .push(format!("{path} is a program, not a driver"));
        }
        let (stated, computed) = driver.checksum;
        if starts_at_boot && stated != computed {
            let text = format!(
                "{path} has the checksum 0x{stated:x} where it should have 0x{computed:x}: the boot loader refuses it"
            );
            judgement.objections.push(text);
        }
        // From Vista on the loader of a 64-bit Windows looks for it, and has no catalogs yet.
        let must_be_signed =
            starts_at_boot && target.architecture != Architecture::X86 && target.windows.major >= 6;
        match &driver.signature {
            None if must_be_signed => {
                judgement.warnings.push(format!(
                    "{path} has no signature of its own, which a driver needs that starts at boot"
                ));
            }
            Some(signature) if target.windows.release() < SHA2_SINCE && is_only_sha2(&signature.digests) => {
                judgement.warnings.push(format!(
                    "{path} is signed by SHA-2 alone, which this Windows knows only with an update (KB4474419 on Windows 7 and Server 2008)"
                ));
            }
            _ => {}
        }
        judgement
    }
}

/// The first Windows that was shipped with it.
const SHA2_SINCE: (u32, u32) = (6, 2);

fn is_only_sha2(digests: &[DigestAlgorithm]) -> bool {
    let old = |digest: &DigestAlgorithm| matches!(digest, DigestAlgorithm::Sha1 | DigestAlgorithm::Md5);
    !digests.is_empty() && !digests.iter().any(old)
}

/// Of a driver file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// It cannot run.
    pub objections: Vec<String>,
    /// It may not be loaded.
    pub warnings: Vec<String>,
}

fn is_inf(path: &str) -> bool {
    let start = path.len().saturating_sub(4);
    path.get(start..)
        .is_some_and(|end| end.eq_ignore_ascii_case(".inf"))
}

//! `rehome boot`: starts a throw-away snapshot and says whether it boots.

use super::{Outcome, Result, print_json, print_text, source_arguments::locator};
use crate::{
    disk::Kind,
    image::{self, Format},
    job::Source,
    locator::Locator,
    machine::{self, Firmware},
    output::{
        Report,
        virtual_machine::{DiskImage, DiskPlace, VirtualMachine},
    },
    qemu::{self, Accelerator, BootOptions, Verdict},
    source::Opened,
    watch::Unwatched,
};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf, absolute},
    time::Duration,
};

/// Start a throw-away snapshot under QEMU and say whether it boots
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The disks, in order; or the folder that `convert` made
    #[arg(value_name = "OUT", required = true, value_parser = locator())]
    disks: Vec<Locator>,

    /// Machine to start it on: a shipped name or a TOML file
    #[arg(long, value_name = "MACHINE")]
    on: String,

    /// Folder with machine files of your own
    #[arg(long, value_name = "DIR")]
    driver_db: Option<PathBuf>,

    /// bios or uefi [default: as the report beside OUT says, else as the disk looks]
    #[arg(long, value_name = "FIRMWARE", value_parser = firmware)]
    firmware: Option<Firmware>,

    /// Seconds after which the guest counts as silent
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,

    /// Memory in MiB
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,

    /// A text on the console that alone counts as booted
    #[arg(long, value_name = "TEXT")]
    wait_for: Option<String>,

    /// kvm or tcg [default: KVM where it works]
    #[arg(long, value_name = "ACCELERATOR", value_parser = accelerator)]
    accelerator: Option<Accelerator>,

    /// Do not show the console while it runs
    #[arg(short, long)]
    quiet: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn firmware(name: &str) -> std::result::Result<Firmware, String> {
    match name {
        "bios" => Ok(Firmware::Bios),
        "uefi" => Ok(Firmware::Uefi),
        _ => Err("bios or uefi".to_owned()),
    }
}

fn accelerator(name: &str) -> std::result::Result<Accelerator, String> {
    match name {
        "kvm" => Ok(Accelerator::Kvm),
        "tcg" => Ok(Accelerator::Tcg),
        _ => Err("kvm or tcg".to_owned()),
    }
}

pub(super) fn run(arguments: &Arguments) -> Result {
    let machine = machine::load(&arguments.on, arguments.driver_db.as_deref())?;
    let (disks, report) = find(&arguments.disks)?;
    let images = disks
        .iter()
        .map(image_of)
        .collect::<crate::disk::Result<Vec<_>>>()?;
    let plan = report.as_ref().and_then(|report| report.plan.as_ref());
    let plan = plan.filter(|plan| plan.machine == machine);
    let firmware = match (arguments.firmware, plan) {
        (Some(firmware), _) => firmware,
        (None, Some(plan)) => plan.firmware,
        (None, None) => guess_firmware(&disks)?,
    };
    let virtual_machine = match plan {
        Some(plan) => VirtualMachine::of_plan("boot", plan, images)
            .map(|planned| VirtualMachine { firmware, ..planned }),
        None => VirtualMachine::of_machine("boot", &machine, firmware, images),
    };
    let virtual_machine = virtual_machine
        .ok_or_else(|| format!("the machine {} has no controller for the disks", machine.name))?;
    let options = BootOptions {
        timeout: Duration::from_secs(arguments.timeout),
        memory_mib: arguments.memory,
        processors: None,
        accelerator: arguments.accelerator.unwrap_or_default(),
        marker: arguments.wait_for.clone(),
    };
    let mut follow = |line: &str| {
        if !arguments.quiet {
            // Nobody watching is no reason to end the guest.
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
        true
    };
    let booted = qemu::boot(&virtual_machine, &options, &mut follow)?;
    let verdict = booted.verdict;
    if arguments.json {
        print_json(&serde_json::json!({
            "schema": 1,
            "verdict": format!("{verdict:?}"),
            "seconds": booted.elapsed.as_secs_f64(),
            "accelerator": format!("{:?}", booted.accelerator),
            "last_lines": booted.last_lines,
        }))?;
    } else {
        if verdict != Verdict::Booted {
            print_text(&format_args!("{}\n", booted.last_lines.join("\n")))?;
        }
        print_text(&format_args!(
            "{verdict} after {:.1} s\n",
            booted.elapsed.as_secs_f64()
        ))?;
    }
    Ok(if verdict == Verdict::Booted {
        Outcome::Done
    } else {
        Outcome::No
    })
}

/// The disks that are meant, and the report that `convert` wrote beside them.
fn find(named: &[Locator]) -> io::Result<(Vec<Locator>, Option<Report>)> {
    if let [Locator::Path(folder)] = named
        && folder.is_dir()
    {
        let report = read_report(&folder.join("report.json"));
        let names: Vec<Locator> = match &report {
            Some(report) => {
                let disks = report.disks.iter();
                disks.map(|disk| Locator::Path(folder.join(&disk.name))).collect()
            }
            None => {
                let text = format!("{}: has no report.json that names its disks", folder.display());
                return Err(io::Error::new(io::ErrorKind::NotFound, text));
            }
        };
        return Ok((names, report));
    }
    let report = match named {
        [Locator::Path(disk)] => read_report(&disk.with_extension("report.json")),
        _ => None,
    };
    Ok((named.to_vec(), report))
}

fn read_report(path: &Path) -> Option<Report> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn image_of(locator: &Locator) -> crate::disk::Result<DiskImage> {
    let (place, format) = match locator {
        Locator::Path(path) => {
            let container = crate::disk::open_source(path, None)?;
            let is_file = path.is_file();
            let path = absolute(path).map_err(|e| crate::disk::Error::io(path.display().to_string(), e))?;
            if is_file {
                (DiskPlace::File(path), image::detect(&*container)?)
            } else {
                (DiskPlace::Device(path), Format::Raw)
            }
        }
        Locator::Nbd(address) => (DiskPlace::Export(address.clone()), Format::Raw),
        Locator::Standard => {
            let text = "QEMU cannot start a machine from standard input: name a file";
            return Err(crate::disk::Error::new(
                Kind::Unsupported,
                locator.to_string(),
                text,
            ));
        }
    };
    Ok(DiskImage {
        place,
        format: format.to_string(),
    })
}

fn guess_firmware(disks: &[Locator]) -> crate::disk::Result<Firmware> {
    let source = Source {
        disks: disks.to_vec(),
        overlay_memory: 32 << 20,
        temporary_folder: std::env::temp_dir(),
        ..Source::default()
    };
    let examined = Opened::open(&source, &Unwatched)?.examine()?;
    Ok(match examined.choose(None)? {
        Some(guest) => guest.boot.firmware,
        None => examined.likely_firmware(),
    })
}

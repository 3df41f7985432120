//! `rehome fs`: looks into a guest, and mends it, without mounting.

use super::{
    Outcome, Result, planning_arguments, print_json, print_text,
    progress::{Progress, Style},
    source_arguments::ReadingArguments,
};
use crate::{
    convert::{self, Mending},
    fs::{Attributes, FileSystem, GuestPath, mode},
    job::Source,
    locator::{Locator, LocatorError},
    source::{Examined, Found, Opened},
    watch::Unwatched,
};
use clap::Subcommand;
use serde_json::json;
use std::{
    error::Error,
    fs::File,
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
};

/// Look into a guest and mend it without mounting
///
/// SRC is a disk image, a block device or an export of a server; SRC@VOLUME means one of its volumes, as in server.img@disk0/p2 or server.img@p2.
/// Without a volume, paths are those of the installed system with all that it mounts.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    reading: ReadingArguments,

    /// Print as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Names in a folder
    Ls {
        /// SRC or SRC@VOLUME
        src: String,
        /// Path in the guest
        path: String,
        /// Type, mode, owner and size of each
        #[arg(short, long)]
        long: bool,
    },
    /// Contents of a file
    Cat {
        /// SRC or SRC@VOLUME
        src: String,
        /// Path in the guest
        path: String,
    },
    /// What is known of a file
    Stat {
        /// SRC or SRC@VOLUME
        src: String,
        /// Path in the guest; a link at its end is not followed
        path: String,
    },
    /// Copy a file out of the guest
    Get {
        /// SRC or SRC@VOLUME
        src: String,
        /// Path in the guest
        path: String,
        /// File to make
        to: PathBuf,
    },
    /// Put a file into the guest, in place
    Put {
        /// SRC or SRC@VOLUME
        src: String,
        /// Path in the guest
        path: String,
        /// File to take the contents from; an existing file of the guest keeps its mode and owner
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// File that will be able to take it back
        #[arg(long, value_name = "FILE")]
        undo: PathBuf,
    },
    /// Remove a file or an empty folder from the guest, in place
    Rm {
        /// SRC or SRC@VOLUME
        src: String,
        /// Path in the guest
        path: String,
        /// File that will be able to take it back
        #[arg(long, value_name = "FILE")]
        undo: PathBuf,
    },
    /// How much is free in each filesystem
    Free {
        /// SRC or SRC@VOLUME
        src: String,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result {
    match &arguments.command {
        Command::Ls { src, path, long } => list(arguments, src, path, *long),
        Command::Cat { src, path } => {
            let examined = arguments.examine(src)?;
            copy_out(&examined, path, &mut io::stdout().lock())
        }
        Command::Get { src, path, to } => {
            let examined = arguments.examine(src)?;
            let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", to.display()));
            let mut file = File::create_new(to).map_err(named)?;
            copy_out(&examined, path, &mut file)
        }
        Command::Stat { src, path } => stat(arguments, src, path),
        Command::Put {
            src,
            path,
            from,
            undo,
        } => mend(arguments, src, path, &Mending::Put(from.clone()), undo),
        Command::Rm { src, path, undo } => mend(arguments, src, path, &Mending::Remove, undo),
        Command::Free { src } => free(arguments, src),
    }
}

impl Arguments {
    /// SRC and, behind the last `@`, the volume.
    fn split(&self, src: &str) -> std::result::Result<(Source, Option<String>), LocatorError> {
        // A file of that very name is what is meant.
        let (disk, volume) = match src.rsplit_once('@') {
            Some((disk, volume)) if !Path::new(src).exists() => (disk, Some(volume.to_owned())),
            _ => (src, None),
        };
        let disk = Locator::parse(disk.as_ref())?;
        Ok((self.reading.source(vec![disk]), volume))
    }

    fn examine(&self, src: &str) -> std::result::Result<Examined, Box<dyn Error + Send + Sync>> {
        let (source, volume) = self.split(src)?;
        let mut examined = Opened::open(&source, &Unwatched)?.examine()?;
        convert::mount_tree(&mut examined, volume.as_deref())?;
        Ok(examined)
    }
}

fn not_there(path: &str) -> String {
    format!("{path}: no such file in the guest")
}

fn list(arguments: &Arguments, src: &str, path: &str, long: bool) -> Result {
    let examined = arguments.examine(src)?;
    let mounts = &examined.layer.mounts;
    let folder = GuestPath::from(path);
    let mut names = mounts.list(&folder)?.ok_or_else(|| not_there(path))?;
    names.sort();
    let mut rows = Vec::new();
    for name in names {
        let attributes = match mounts.find_link(&folder.join(&name))? {
            Some(found) if long || arguments.json => found.attributes,
            _ => Attributes::default(),
        };
        rows.push((GuestPath(name), attributes));
    }
    if arguments.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, attributes)| facts(name, attributes))
            .collect();
        return print_json(&rows);
    }
    let mut text = String::new();
    for (name, attributes) in rows {
        if long {
            let (user, group) = attributes.owner.unwrap_or_default();
            let mode = mode_text(attributes.mode.unwrap_or_default());
            text += &format!("{mode} {user:>5} {group:>5} {:>12} {name}\n", attributes.size);
        } else {
            text += &format!("{name}\n");
        }
    }
    print_text(&text)
}

fn stat(arguments: &Arguments, src: &str, path: &str) -> Result {
    let examined = arguments.examine(src)?;
    let mounts = &examined.layer.mounts;
    let found = mounts
        .find_link(&GuestPath::from(path))?
        .ok_or_else(|| not_there(path))?;
    let names = mounts.filesystem(found.index)?.extended_names(found.node)?;
    let names: Vec<GuestPath> = names.into_iter().map(GuestPath).collect();
    let mut facts = facts(&found.path, &found.attributes);
    if let Some(object) = facts.as_object_mut() {
        object.insert("volume".into(), json!(found.volume));
        object.insert("path_there".into(), json!(found.path_there));
        object.insert("node".into(), json!(found.node.0));
        object.insert("extended".into(), json!(names));
        if found.attributes.is_link() {
            object.insert("target".into(), json!(mounts.read_link(&GuestPath::from(path))?));
        }
    }
    if arguments.json {
        return print_json(&facts);
    }
    let mut text = String::new();
    for (name, value) in facts.as_object().into_iter().flatten() {
        if !value.is_null() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text += &format!("{name:>10}  {value}\n");
        }
    }
    print_text(&text)
}

fn facts(name: &GuestPath, attributes: &Attributes) -> serde_json::Value {
    let seconds = |time: Option<i128>| time.map(|nanoseconds| nanoseconds.div_euclid(1_000_000_000));
    json!({
        "name": name,
        "size": attributes.size,
        "mode": attributes.mode.map(mode_text),
        "user": attributes.owner.map(|owner| owner.0),
        "group": attributes.owner.map(|owner| owner.1),
        "links": attributes.links,
        "modified": seconds(attributes.modified).and_then(|seconds| i64::try_from(seconds).ok()),
    })
}

/// "drwxr-xr-x", as `ls -l` has it.
fn mode_text(mode: u32) -> String {
    let kind = match mode & mode::TYPE {
        mode::DIRECTORY => 'd',
        mode::LINK => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, with, without) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        text.push(if mode >> shift & 4 != 0 { 'r' } else { '-' });
        text.push(if mode >> shift & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode >> shift & 1 != 0, mode & special != 0) {
            (true, true) => with,
            (false, true) => without,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn copy_out(examined: &Examined, path: &str, out: &mut dyn Write) -> Result {
    let mounts = &examined.layer.mounts;
    let found = mounts
        .find(&GuestPath::from(path))?
        .ok_or_else(|| not_there(path))?;
    if !found.attributes.is_file() {
        return Err(format!("{path}: is no regular file").into());
    }
    let mut file = mounts.open_found(&found)?;
    super::unless_closed(io::copy(&mut file, out).and_then(|_| out.flush()))?;
    Ok(Outcome::Done)
}

fn mend(arguments: &Arguments, src: &str, path: &str, mending: &Mending, undo: &Path) -> Result {
    let (source, volume) = arguments.split(src)?;
    let progress = Progress::start(Style::Auto)?;
    let clock = planning_arguments::now();
    let path = GuestPath::from(path);
    let undo_files = convert::mend(&source, volume.as_deref(), &path, mending, clock, undo, &progress)?;
    drop(progress);
    for file in undo_files {
        print_text(&format_args!("to take it back: rehome undo {}\n", file.display()))?;
    }
    Ok(Outcome::Done)
}

fn free(arguments: &Arguments, src: &str) -> Result {
    let examined = arguments.examine(src)?;
    let mut rows = Vec::new();
    for (volume, contents) in examined.layer.volumes() {
        if let Found::FileSystem(index) = &contents.found {
            let filesystem = examined.layer.mounts.filesystem(*index)?;
            let mut runs = 0_u64;
            filesystem.free(&mut |run: Range<u64>| {
                runs = runs.saturating_add(run.end.saturating_sub(run.start));
                Ok(())
            })?;
            let kind = FileSystem::identity(filesystem).kind;
            rows.push((
                volume.id.clone(),
                kind,
                volume.disk.size(),
                filesystem.free_bytes()?,
                runs,
            ));
        }
    }
    if arguments.json {
        let rows = rows.iter().map(|(id, kind, size, free, runs)| {
            json!({"volume": id, "kind": kind, "size": size, "free": free, "not_copied": runs})
        });
        return print_json(&rows.collect::<Vec<_>>());
    }
    let mut text = format!(
        "{:<12} {:<6} {:>16} {:>16} {:>16}\n",
        "volume", "kind", "size", "free", "not copied"
    );
    for (id, kind, size, free, runs) in rows {
        text += &format!("{id:<12} {kind:<6} {size:>16} {free:>16} {runs:>16}\n");
    }
    print_text(&text)
}

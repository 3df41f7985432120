//! `rehome hive export`: a key and all below it as a registration file.

use super::{Result, key_at, print_text};
use crate::{
    cli::Outcome,
    convert::Purpose,
    hive::reg_file::{CodePage, Style, export},
};
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::PathBuf,
};

/// Write a key and all below it as a registration file (.reg)
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The hive
    file: String,
    /// The key; without it all
    #[arg(default_value = "", hide_default_value = true)]
    key: String,
    /// New file to write; without it standard output
    #[arg(short, long, value_name = "OUT")]
    out: Option<PathBuf>,
    /// What the hive is called in a running Windows, as in 'HKEY_LOCAL_MACHINE\SYSTEM'
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    prefix: String,
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    style: StyleArgument,
    /// Code page of a regedit4
    #[arg(long, value_name = "NAME", default_value = "windows-1252")]
    code_page: CodePage,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum StyleArgument {
    /// Version 5.00 in UTF-8, which hivexregedit reads
    #[default]
    Utf8,
    /// Version 5.00 in UTF-16, as regedit writes it
    Utf16,
    /// REGEDIT4 in a code page, which every Windows reads
    Regedit4,
}

pub(super) fn run(command: &Arguments, arguments: &super::Arguments) -> Result {
    let style = match command.style {
        StyleArgument::Utf8 => Style::Version5Utf8,
        StyleArgument::Utf16 => Style::Version5,
        StyleArgument::Regedit4 => Style::Regedit4(command.code_page),
    };
    let file = arguments.read(&command.file, Purpose::Reading)?;
    let key = key_at(&file.hive, &command.key)?;
    let prefix = match command.key.trim_matches('\\') {
        "" => command.prefix.clone(),
        key => format!("{}\\{key}", command.prefix.trim_end_matches('\\')),
    };
    let done = match &command.out {
        Some(out) => {
            let named =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", out.display()));
            let mut out = BufWriter::new(File::create_new(out).map_err(named)?);
            let done = export(&file.hive, &key, &prefix, style, &mut out)?;
            out.into_inner()
                .map_err(|error| named(error.into_error()))?
                .sync_all()
                .map_err(named)?;
            done
        }
        None => export(
            &file.hive,
            &key,
            &prefix,
            style,
            &mut Stdout(BufWriter::new(io::stdout().lock())),
        )?,
    };
    if command.out.is_some() {
        print_text(&format_args!("{} keys, {} values\n", done.keys, done.values))?;
    }
    for left_out in &done.left_out {
        crate::cli::warn(&format!(
            "left out, its name or text cannot be written so: {left_out}"
        ));
    }
    Ok(if done.left_out.is_empty() {
        Outcome::Done
    } else {
        Outcome::No
    })
}

/// Standard output; that nobody reads on is no failure.
struct Stdout<W: Write>(BufWriter<W>);

impl<W: Write> Write for Stdout<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        crate::cli::unless_closed(self.0.write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        crate::cli::unless_closed(self.0.flush())
    }
}

//! What the README, the documents and `--help` say is what the program does.

use rehome::image::Format;
use std::{
    fs,
    process::{Command, Output},
};

fn rehome(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    // Whatever they name is not there, so nothing is done.
    Command::new(env!("CARGO_BIN_EXE_rehome"))
        .current_dir(folder.path())
        .args(arguments)
        .output()
        .unwrap()
}

fn text_of(file: &str) -> String {
    fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn help(of: &[&str]) -> String {
    let output = rehome(&[of, &["--help"]].concat());
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

/// What `--help` says of `option`, up to the next one.
fn about(help: &str, option: &str) -> String {
    let start = help.find(option).unwrap_or_else(|| panic!("{option} in {help}"));
    let rest = &help[start..];
    let end = rest.find("\n\n").unwrap_or(rest.len());
    rest[..end].split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_command_of_the_readme_is_one_that_the_program_takes() {
    let readme = text_of("README.md");
    let mut count = 0;
    for line in readme.lines().filter(|line| line.starts_with("rehome ")) {
        let (command, comment) = line.split_once('#').unwrap_or((line, ""));
        let words: Vec<&str> = command.split_whitespace().skip(1).collect();
        let mut commands = vec![words.clone()];
        // "-r leaks --undo FILE gives lost space back": a whole example.
        if comment.trim_start().starts_with("-r ") {
            let options = comment.split_whitespace().take_while(|word| *word != "gives");
            commands.push(words.into_iter().chain(options).collect());
        }
        for words in commands {
            let output = rehome(&words);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_ne!(output.status.code(), Some(2), "{words:?}: {errors}");
            count += 1;
        }
    }
    assert!(count > 10, "{count} commands");
}

#[test]
fn a_checkpoint_is_made_as_often_as_the_ledgers_description_says() {
    let help = help(&["image", "convert"]);
    let said = about(&help, "--checkpoint");
    assert!(said.contains("[default: 64M]"), "{said}");
    let ledger = text_of("docs/ledger.md");
    assert!(
        ledger.contains("every 64 MiB (`--checkpoint`)"),
        "{:?}",
        ledger.lines().find(|line| line.contains("checkpoint"))
    );
}

#[test]
fn convert_lists_every_format_that_it_writes_and_reads() {
    let help = help(&["convert"]);
    let (written, read) = (about(&help, "-O, --format"), about(&help, "--source-format"));
    let only_read = [Format::Ovf, Format::Qcow, Format::Parallels];
    for format in Format::ALL.iter().filter(|format| !only_read.contains(format)) {
        assert!(written.contains(format.name()), "{format}: {written}");
        assert!(
            *format == Format::Ova || read.contains(format.name()),
            "{format}: {read}"
        );
    }
}

#[test]
fn sizes_are_the_same_words_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    for (size, bytes) in [("1M", 1 << 20), ("1MB", 1 << 20), ("2048k", 2 << 20)] {
        let out = folder.path().join(size);
        let name = out.to_str().unwrap();
        let options = format!("cluster_size={size}");
        let output = rehome(&["image", "create", "-f", "qcow2", "-o", &options, name, size]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let info = rehome(&["image", "info", "--json", name]).stdout;
        let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
        assert_eq!(info["images"][0]["virtual_size"], bytes, "{info}");
        assert_eq!(info["images"][0]["unit"], bytes, "{info}");
    }
    for (size, cluster, code) in [("1P", "64k", 0), ("1M", "1Px", 1), ("1.5G", "64k", 2)] {
        let out = folder.path().join(format!("{size}-{cluster}"));
        let options = format!("cluster_size={cluster}");
        let name = out.to_str().unwrap();
        let output = rehome(&["image", "create", "-f", "qcow2", "-o", &options, name, size]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{size} {cluster}: {errors}");
        assert!(code == 0 || errors.contains("is no size"), "{errors}");
    }
}

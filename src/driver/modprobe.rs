//! The configuration of modprobe (modprobe.d(5)), and what of it stands on a kernel command line.

use super::modalias::{matches, normalise};
use std::collections::BTreeMap;

/// The folders whose `*.conf` files count. Of files of one name only that of the first folder does.
pub const MODPROBE_FOLDERS: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// What `softdep` lines say of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SoftDependency {
    /// Loaded before it.
    pub pre: Vec<String>,
    /// Loaded after it.
    pub post: Vec<String>,
}

impl SoftDependency {
    /// Reads what stands behind the module: "pre: a b post: c". Words before either are ignored, as by kmod.
    pub fn parse(text: &str) -> Self {
        let mut dependency = Self::default();
        let mut list: Option<bool> = None;
        for word in text.split_ascii_whitespace() {
            match (word, list) {
                ("pre:", _) => list = Some(true),
                ("post:", _) => list = Some(false),
                (_, Some(true)) => dependency.pre.push(word.to_owned()),
                (_, Some(false)) => dependency.post.push(word.to_owned()),
                (_, None) => {}
            }
        }
        dependency
    }
}

/// A line, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The file as the caller named it, or "the kernel command line".
    pub file: String,
    /// From 1; 0 on a kernel command line.
    pub line: u32,
    /// The module or alias that it is about, normalised; a pattern is possible in aliases and soft dependencies.
    pub name: String,
    /// What follows.
    pub value: String,
}

/// The lines of all files, by their first word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModprobeConfig {
    /// "blacklist MODULE": its aliases do not count.
    pub blacklist: Vec<Line>,
    /// "alias PATTERN MODULE".
    pub aliases: Vec<Line>,
    /// "options MODULE NAME=VALUE".
    pub options: Vec<Line>,
    /// "install MODULE COMMAND": the command runs in place of loading the module.
    pub install: Vec<Line>,
    /// "remove MODULE COMMAND".
    pub remove: Vec<Line>,
    /// "softdep MODULE pre: A post: B".
    pub softdep: Vec<Line>,
    /// "weakdep MODULE A".
    pub weakdep: Vec<Line>,
    soft_dependencies: Vec<SoftDependency>,
    lines: u32,
}

/// Lines of all files together that are kept; hardened systems have some hundred.
const MAX_LINES: u32 = 5000;

/// What the messages call it.
const COMMAND_LINE: &str = "the kernel command line";

impl ModprobeConfig {
    /// Reads those of `files` (path, contents) that count, in the order in which kmod does: by name. Paths may lack the
    /// leading slash.
    pub fn from_folders<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut chosen: BTreeMap<&str, (usize, &str, &[u8])> = BTreeMap::new();
        for (path, contents) in files {
            let Some((folder, name)) = path.rsplit_once('/') else {
                continue;
            };
            let rank = MODPROBE_FOLDERS
                .iter()
                .position(|known| known.trim_start_matches('/') == folder.trim_start_matches('/'));
            let (Some(rank), true) = (rank, name.ends_with(".conf") && !name.starts_with('.')) else {
                continue;
            };
            if chosen.get(name).is_none_or(|(known, ..)| rank < *known) {
                chosen.insert(name, (rank, path, contents));
            }
        }
        let mut config = Self::default();
        for (_, path, contents) in chosen.into_values() {
            config.add_file(path, contents);
        }
        config
    }

    /// Adds one file. Lines that modprobe would not understand are ignored, as it does.
    pub fn add_file(&mut self, file: &str, contents: &[u8]) {
        let mut number = 0_u32;
        let mut joined = String::new();
        let mut first = 1;
        for line in contents.split(|b| *b == b'\n') {
            number = number.saturating_add(1);
            if joined.is_empty() {
                first = number;
            }
            // A backslash at the end joins the next line to this one.
            if let Some((b'\\', line)) = line.split_last() {
                joined.push_str(&String::from_utf8_lossy(line));
                continue;
            }
            joined.push_str(&String::from_utf8_lossy(line));
            self.add_line(file, first, &joined);
            joined.clear();
        }
        self.add_line(file, first, &joined);
    }

    fn add_line(&mut self, file: &str, line: u32, text: &str) {
        let Some((word, rest)) = first_word(text) else {
            return;
        };
        let Some((name, value)) = first_word(rest) else {
            return;
        };
        let Some(name) = normalise(name.as_bytes()).filter(|_| self.lines < MAX_LINES) else {
            return;
        };
        self.lines = self.lines.saturating_add(1);
        let line = Line {
            file: file.to_owned(),
            line,
            name: String::from_utf8_lossy(&name).into_owned(),
            value: value.trim_matches([' ', '\t']).to_owned(),
        };
        match word {
            "blacklist" => self.blacklist.push(line),
            "alias" => self.aliases.push(line),
            "options" => self.options.push(line),
            "install" => self.install.push(line),
            "remove" => self.remove.push(line),
            "softdep" => {
                self.soft_dependencies.push(SoftDependency::parse(&line.value));
                self.softdep.push(line);
            }
            "weakdep" => self.weakdep.push(line),
            _ => {}
        }
    }

    /// Adds what a kernel command line says: `modprobe.blacklist=A,B`, `rd.driver.blacklist=A`,
    /// `module_blacklist=A,B` (the kernel itself refuses those), and `MODULE.PARAMETER=VALUE`.
    pub fn add_kernel_command_line(&mut self, command_line: &str) {
        for word in command_line.split_ascii_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            let line = |name: &str, value: &str| Line {
                file: COMMAND_LINE.to_owned(),
                line: 0,
                name: name.replace('-', "_"),
                value: value.to_owned(),
            };
            if matches!(
                key,
                "modprobe.blacklist" | "module_blacklist" | "rd.driver.blacklist"
            ) {
                let names = value.split(',').filter(|name| !name.is_empty());
                self.blacklist.extend(names.map(|name| line(name, "")));
            } else if let Some((module, parameter)) = key.split_once('.') {
                self.options.push(line(module, &format!("{parameter}={value}")));
            }
        }
    }

    /// The line that keeps `module` from being loaded for a device: a blacklist, or an `install` command that loads
    /// nothing (`/bin/true`, `/bin/false`).
    pub fn blacklisted(&self, module: &str) -> Option<&Line> {
        let name = module.replace('-', "_");
        let disabled = |line: &&Line| {
            let command = line.value.split_ascii_whitespace().next().unwrap_or_default();
            line.name == name && matches!(command.rsplit('/').next(), Some("true" | "false" | ":"))
        };
        self.blacklist
            .iter()
            .find(|line| line.name == name)
            .or_else(|| self.install.iter().find(disabled))
    }

    /// The modules that the `alias` lines give for a modalias or name, normalised, in order.
    pub fn alias(&self, alias: &str) -> Vec<String> {
        let Some(alias) = normalise(alias.as_bytes()) else {
            return Vec::new();
        };
        self.aliases
            .iter()
            .filter(|line| matches(line.name.as_bytes(), &alias))
            .filter_map(|line| line.value.split_ascii_whitespace().next())
            .map(|module| module.replace('-', "_"))
            .collect()
    }

    /// The soft dependencies of `module` by the first line that names it, and the name of its file without folders.
    pub(crate) fn soft_dependency(&self, module: &str) -> Option<(&str, &SoftDependency)> {
        self.softdep
            .iter()
            .zip(&self.soft_dependencies)
            .find(|(line, _)| matches(line.name.as_bytes(), module.as_bytes()))
            .map(|(line, dependency)| (line.file.rsplit('/').next().unwrap_or_default(), dependency))
    }
}

/// The first word of `text` and what follows; `None` if there is none, or a comment.
fn first_word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    if text.is_empty() || text.starts_with('#') {
        return None;
    }
    Some(text.split_once([' ', '\t']).unwrap_or((text, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "# blacklist comment\nblacklist  snd-pcsp\n  blacklist floppy\nalias net-pf-10 off\n\
        alias pci:v00001AF4d*sv* my-driver\noptions snd_hda_intel \\\n  index=1 \\\nmodel=auto\n\
        install dccp /bin/false\ninstall usb-storage /sbin/modprobe --ignore-install usb-storage\n\
        softdep mlx4_core pre: a-b c post: d\nalias broken] x\nblacklist";

    #[test]
    fn lines_of_all_kinds() {
        let mut config = ModprobeConfig::default();
        config.add_file("/etc/modprobe.d/a.conf", CONFIG.as_bytes());
        let found = config.blacklisted("snd_pcsp").unwrap();
        assert_eq!((found.file.as_str(), found.line), ("/etc/modprobe.d/a.conf", 2));
        assert_eq!(config.blacklisted("floppy").unwrap().line, 3);
        assert_eq!(config.blacklisted("dccp").unwrap().value, "/bin/false");
        assert_eq!(config.blacklisted("usb-storage"), None);
        assert_eq!(config.alias("pci:v00001AF4d00001042sv00"), ["my_driver"]);
        assert_eq!(config.options[0].value, "index=1 model=auto");
        assert_eq!((config.options[0].line, config.install[0].line), (6, 9));
        let (file, soft) = config.soft_dependency("mlx4_core").unwrap();
        assert_eq!(
            (file, &soft.pre, &soft.post),
            ("a.conf", &vec!["a-b".into(), "c".into()], &vec!["d".into()])
        );
        assert_eq!((config.aliases.len(), config.blacklist.len()), (2, 2));
    }

    #[test]
    fn the_first_folder_wins_and_names_give_the_order() {
        let files = [
            ("/lib/modprobe.d/b.conf", &b"blacklist lib_b"[..]),
            ("/etc/modprobe.d/b.conf", b"blacklist etc_b"),
            ("usr/lib/modprobe.d/a.conf", b"blacklist a"),
            ("/etc/modprobe.d/c.conf.dpkg-old", b"blacklist old"),
            ("/etc/b.conf", b"blacklist other"),
        ];
        let config = ModprobeConfig::from_folders(files);
        let names: Vec<_> = config.blacklist.iter().map(|line| &*line.name).collect();
        assert_eq!(names, ["a", "etc_b"]);
    }

    #[test]
    fn the_kernel_command_line_counts() {
        let mut config = ModprobeConfig::default();
        config.add_kernel_command_line(
            "root=/dev/sda1 quiet modprobe.blacklist=ahci,e1000e ahci.mobile_lpm_policy=1",
        );
        assert_eq!(
            config.blacklisted("e1000e").unwrap().file,
            "the kernel command line"
        );
        assert_eq!(config.options[0].value, "mobile_lpm_policy=1");
    }
}

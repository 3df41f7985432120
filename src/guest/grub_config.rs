//! grub.cfg: the menu that it makes and the entry that starts when nobody chooses. The script is followed as GRUB
//! would, as far as the facts on the disk decide it; where a condition cannot be known, both ways are looked at.

use super::{
    grub_script::{self, Command, Piece, Statement, Word},
    text::lossy,
};
use std::collections::BTreeMap;

/// Menu entries that are read. A menu of some dozens is long.
const MAX_ENTRIES: usize = 4096;
/// Submenus in one another that are followed.
const MAX_SUBMENUS: u32 = 8;
/// Bytes of a variable's value: longer than any kernel command line.
const MAX_VALUE: usize = 16 << 10;
/// Variables that are kept.
const MAX_VARIABLES: usize = 4096;
/// Words that a command is expanded to.
const MAX_WORDS: usize = 1024;

/// What the script finds when it starts.
#[derive(Clone, Debug, Default)]
pub struct GrubEnvironment {
    /// `grub_platform`: "pc" or "efi".
    pub platform: String,
    /// The folder of the configuration, as in "/boot/grub".
    pub prefix: String,
    /// Variables of grubenv; `None`: there is none.
    pub saved: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// The menu.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GrubConfig {
    /// Entries in order, submenus flattened.
    pub entries: Vec<GrubEntry>,
    /// Index of the entry that starts when nobody chooses.
    pub default: Option<usize>,
    /// The configuration that this one hands over to (`configfile`), as on Debian's EFI system partitions.
    pub hands_over_to: Option<GrubFile>,
    /// Other scripts that are read if they exist (`source`); they were not.
    pub sources: Vec<GrubFile>,
    /// Does it ask for Boot Loader Specification entries (`blscfg`)? They were not read.
    pub boot_loader_specification: bool,
    /// What was not understood, one sentence each.
    pub problems: Vec<String>,
}

/// A menu entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GrubEntry {
    /// What is shown.
    pub title: String,
    /// `--id`.
    pub id: Option<String>,
    /// Titles of the submenus that it is in.
    pub submenus: Vec<String>,
    /// The line of its `menuentry`, from 1.
    pub line: u32,
    /// What `linux` loads; `None`: something else is started.
    pub kernel: Option<GrubFile>,
    /// The kernel command line as written.
    pub options: Vec<u8>,
    /// What `initrd` loads, in order.
    pub initramfs: Vec<GrubFile>,
}

/// A file as GRUB names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrubFile {
    /// Where it is.
    pub device: GrubDevice,
    /// The path there.
    pub path: Vec<u8>,
}

/// A device as GRUB finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GrubDevice {
    /// The one that the configuration is on.
    #[default]
    Own,
    /// `search --fs-uuid`.
    Uuid(String),
    /// `search --label`.
    Label(String),
    /// `search --file`.
    HasFile(String),
    /// "hd0,gpt2", counting disks from 0 and partitions from 1: "hd0,msdos1", or "hd0" alone.
    Disk(String),
}

/// Follows a configuration. Never fails: what cannot be read is in the problems.
pub fn parse(contents: &[u8], environment: &GrubEnvironment) -> GrubConfig {
    let script = grub_script::parse(contents);
    let mut run = Run {
        environment,
        entries: 0,
        config: GrubConfig {
            problems: script.problems,
            ..GrubConfig::default()
        },
    };
    let mut scope = Scope::default();
    for (name, value) in [
        ("prefix", &*environment.prefix),
        ("config_directory", &*environment.prefix),
        ("grub_platform", &*environment.platform),
        ("menuentry_id_option", "--id"),
        ("feature_menuentry_id", "y"),
        ("feature_platform_search_hint", "y"),
        ("feature_timeout_style", "y"),
        ("feature_default_font_path", "y"),
        ("feature_all_video_module", "y"),
        ("feature_200_final", "y"),
    ] {
        scope.set(name.as_bytes(), value.into());
    }
    let mut menu = Vec::new();
    run.statements(&script.statements, &mut scope, &mut menu);
    let choice = scope.get(b"default");
    let mut titles = Vec::new();
    let menu: Vec<Item> = menu
        .iter()
        .filter_map(|block| run.item(block, &scope, &mut titles, 0))
        .collect();
    let mut config = run.config;
    config.default = chosen(&menu, &choice);
    config
}

/// Variables; a menu entry changes its own copy, which is only what differs.
#[derive(Default)]
struct Scope<'p> {
    outer: Option<&'p Scope<'p>>,
    own: BTreeMap<Vec<u8>, Vec<u8>>,
    /// More than 0: what is set is forgotten, since it is not known that GRUB comes here.
    forgetting: u32,
}

impl Scope<'_> {
    fn get(&self, name: &[u8]) -> Vec<u8> {
        let mut scope = Some(self);
        while let Some(here) = scope {
            if let Some(value) = here.own.get(name) {
                return value.clone();
            }
            scope = here.outer;
        }
        Vec::new()
    }

    fn set(&mut self, name: &[u8], value: Vec<u8>) {
        let known = self.own.contains_key(name) || self.own.len() < MAX_VARIABLES;
        if self.forgetting == 0 && known && value.len() <= MAX_VALUE {
            self.own.insert(name.to_vec(), value);
        }
    }

    /// The word as GRUB sees it: bare variables are split at blanks, and are nothing if they are empty.
    fn expand(&self, word: &Word, words: &mut Vec<Vec<u8>>) {
        let mut current = Vec::new();
        let mut there = word.quoted;
        for piece in &word.pieces {
            match piece {
                Piece::Literal(text) => {
                    current.extend_from_slice(text);
                    there = true;
                }
                Piece::Variable { name, quoted: true } => {
                    current.extend_from_slice(&self.get(name));
                    there = true;
                }
                Piece::Variable { name, quoted: false } => {
                    let value = self.get(name);
                    for (i, part) in value
                        .split(|byte| matches!(byte, b' ' | b'\t' | b'\n'))
                        .enumerate()
                    {
                        if i > 0 && !current.is_empty() {
                            words.push(std::mem::take(&mut current));
                        }
                        current.extend_from_slice(part);
                    }
                    there |= !current.is_empty();
                }
            }
            if current.len() > MAX_VALUE {
                return;
            }
        }
        if there && words.len() < MAX_WORDS {
            words.push(current);
        }
    }

    fn expand_all(&self, command: &Command) -> Vec<Vec<u8>> {
        let mut words = Vec::new();
        for word in command.words.iter().take(MAX_WORDS) {
            self.expand(word, &mut words);
        }
        words
    }
}

/// A `menuentry` or `submenu` whose body has not been looked at yet: GRUB does so when it is chosen.
struct Pending<'s> {
    head: Vec<Vec<u8>>,
    line: u32,
    body: &'s [Statement<'s>],
}

/// An item of a menu, to be found by number, id or title.
struct Item {
    title: String,
    id: Option<String>,
    /// Index in the flat list.
    entry: Option<usize>,
    submenu: Vec<Item>,
}

struct Run<'e> {
    environment: &'e GrubEnvironment,
    entries: usize,
    config: GrubConfig,
}

impl Run<'_> {
    fn problem(&mut self, text: String) {
        if self.config.problems.len() < 32 {
            self.config.problems.push(text);
        }
    }

    fn statements<'s>(
        &mut self,
        statements: &'s [Statement<'s>],
        scope: &mut Scope,
        menu: &mut Vec<Pending<'s>>,
    ) {
        for statement in statements {
            match statement {
                Statement::Command(command) => self.command(command, scope, &mut GrubEntry::default()),
                Statement::Block { head, body } => {
                    let words = scope.expand_all(head);
                    if words.first().is_some_and(|word| word != b"function") {
                        if self.entries >= MAX_ENTRIES {
                            return;
                        }
                        self.entries = self.entries.saturating_add(1);
                        menu.push(Pending {
                            head: words,
                            line: head.line,
                            body,
                        });
                    }
                }
                Statement::If { branches, otherwise } => {
                    self.branches(branches, otherwise, scope, &mut |run, body, scope| {
                        run.statements(body, scope, menu);
                    });
                }
                Statement::Loop { line } => {
                    self.problem(format!("line {line}: a loop, which is not followed"))
                }
            }
        }
    }

    /// Goes where the conditions lead; where they cannot be known, into both, of which only the first may set
    /// variables.
    fn branches<'s>(
        &mut self,
        branches: &'s [(Vec<Statement<'s>>, Vec<Statement<'s>>)],
        otherwise: &'s [Statement<'s>],
        scope: &mut Scope,
        visit: &mut dyn FnMut(&mut Self, &'s [Statement<'s>], &mut Scope),
    ) {
        let before = scope.forgetting;
        for (condition, body) in branches {
            match self.condition(condition, scope) {
                Some(false) => {}
                Some(true) => {
                    visit(self, body, scope);
                    scope.forgetting = before;
                    return;
                }
                None => {
                    visit(self, body, scope);
                    scope.forgetting = scope.forgetting.saturating_add(1);
                }
            }
        }
        visit(self, otherwise, scope);
        scope.forgetting = before;
    }

    /// Is it true? Only the last command of a condition counts.
    fn condition(&mut self, condition: &[Statement], scope: &mut Scope) -> Option<bool> {
        let Some(Statement::Command(command)) = condition.last() else {
            return None;
        };
        let words = scope.expand_all(command);
        let mut words: Vec<&[u8]> = words.iter().map(|word| &**word).collect();
        let mut negated = false;
        while words.first() == Some(&&b"!"[..]) {
            words.remove(0);
            negated = !negated;
        }
        let (name, arguments) = words.split_first()?;
        let value = match *name {
            b"[" => self.test(arguments.strip_suffix(&[&b"]"[..]]).unwrap_or(arguments)),
            b"test" => self.test(arguments),
            b"true" => Some(true),
            b"false" => Some(false),
            name if name.starts_with(b"search") => {
                self.command(command, scope, &mut GrubEntry::default());
                None
            }
            _ => None,
        };
        value.map(|value| value != negated)
    }

    /// The command `test`: alternatives of `-o` of conjunctions of `-a`.
    fn test(&self, arguments: &[&[u8]]) -> Option<bool> {
        let mut any = Some(false);
        for conjunction in arguments.split(|word| *word == b"-o") {
            let mut all = Some(true);
            for term in conjunction.split(|word| *word == b"-a") {
                all = match (all, self.term(term)) {
                    (Some(false), _) | (_, Some(false)) => Some(false),
                    (Some(true), value) => value,
                    (None, _) => None,
                };
            }
            any = match (any, all) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), value) => value,
                (None, _) => None,
            };
        }
        any
    }

    fn term(&self, term: &[&[u8]]) -> Option<bool> {
        let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<i64>().ok();
        match *term {
            [] => Some(false),
            [b"!", ref rest @ ..] => Some(!self.term_plain(rest)?),
            [left, b"-eq", right] => Some(number(left)? == number(right)?),
            [left, b"-ne", right] => Some(number(left)? != number(right)?),
            [left, b"-lt", right] => Some(number(left)? < number(right)?),
            [left, b"-gt", right] => Some(number(left)? > number(right)?),
            _ => self.term_plain(term),
        }
    }

    fn term_plain(&self, term: &[&[u8]]) -> Option<bool> {
        match *term {
            [word] => Some(!word.is_empty()),
            [left, b"=" | b"==", right] => Some(left == right),
            [left, b"!=", right] => Some(left != right),
            [b"-z", word] => Some(word.is_empty()),
            [b"-n", word] => Some(!word.is_empty()),
            [b"-s" | b"-f" | b"-e", path] if path.ends_with(b"/grubenv") => {
                Some(self.environment.saved.is_some())
            }
            _ => None,
        }
    }

    fn command(&mut self, command: &Command, scope: &mut Scope, entry: &mut GrubEntry) {
        let words = scope.expand_all(command);
        let Some((name, arguments)) = words.split_first() else {
            return;
        };
        match &**name {
            b"set" => {
                for argument in arguments {
                    assign(argument, scope);
                }
            }
            b"unset" => {
                for argument in arguments {
                    scope.set(argument, Vec::new());
                }
            }
            b"load_env" => {
                for (name, value) in self.environment.saved.iter().flatten() {
                    scope.set(name, value.clone());
                }
            }
            b"search" => search(arguments, scope),
            b"search.fs_uuid" => search_as(b"fs-uuid/", arguments, scope),
            b"search.fs_label" => search_as(b"fs-label/", arguments, scope),
            b"search.file" => search_as(b"fs-file/", arguments, scope),
            b"blscfg" => self.config.boot_loader_specification = true,
            b"configfile" | b"normal" => {
                if let Some(path) = arguments.first() {
                    let file = grub_file(path, scope);
                    self.config.hands_over_to.get_or_insert(file);
                }
            }
            b"source" | b"." => {
                if let (Some(path), true) = (arguments.first(), self.config.sources.len() < 64) {
                    self.config.sources.push(grub_file(path, scope));
                }
            }
            b"linux" | b"linuxefi" | b"linux16" => {
                if let (Some(path), None) = (arguments.first(), &entry.kernel) {
                    entry.kernel = Some(grub_file(path, scope));
                    entry.options = command.text_after(1).to_vec();
                }
            }
            b"initrd" | b"initrdefi" | b"initrd16" => {
                let files = arguments.iter().filter(|path| !path.starts_with(b"newc:"));
                entry.initramfs.extend(files.map(|path| grub_file(path, scope)));
            }
            _ => {
                assign(name, scope);
            }
        }
    }

    /// Looks into a menu entry or submenu.
    fn item(
        &mut self,
        pending: &Pending,
        outer: &Scope,
        titles: &mut Vec<String>,
        depth: u32,
    ) -> Option<Item> {
        let (kind, arguments) = pending.head.split_first()?;
        let (title, id) = title_and_id(arguments);
        let mut scope = Scope {
            outer: Some(outer),
            ..Scope::default()
        };
        let mut item = Item {
            title: title.clone(),
            id: id.clone(),
            entry: None,
            submenu: Vec::new(),
        };
        if kind == b"submenu" {
            if depth >= MAX_SUBMENUS {
                self.problem(format!(
                    "line {}: submenus more than {MAX_SUBMENUS} deep",
                    pending.line
                ));
                return Some(item);
            }
            let mut menu = Vec::new();
            self.statements(pending.body, &mut scope, &mut menu);
            titles.push(title);
            for block in &menu {
                item.submenu
                    .extend(self.item(block, &scope, titles, depth.saturating_add(1)));
            }
            titles.pop();
        } else {
            let mut entry = GrubEntry {
                title,
                id,
                submenus: titles.clone(),
                line: pending.line,
                ..GrubEntry::default()
            };
            // A menu entry may hand over to another configuration; that is its own affair.
            let kept = (self.config.hands_over_to.take(), self.config.sources.len());
            self.body(pending.body, &mut scope, &mut entry);
            self.config.hands_over_to = kept.0;
            self.config.sources.truncate(kept.1);
            item.entry = Some(self.config.entries.len());
            self.config.entries.push(entry);
        }
        Some(item)
    }

    fn body<'s>(&mut self, body: &'s [Statement<'s>], scope: &mut Scope, entry: &mut GrubEntry) {
        for statement in body {
            match statement {
                Statement::Command(command) => self.command(command, scope, entry),
                Statement::If { branches, otherwise } => {
                    self.branches(branches, otherwise, scope, &mut |run, body, scope| {
                        run.body(body, scope, entry);
                    });
                }
                Statement::Block { .. } => {}
                Statement::Loop { line } => {
                    self.problem(format!("line {line}: a loop, which is not followed"))
                }
            }
        }
    }
}

fn assign(word: &[u8], scope: &mut Scope) {
    if let Some(equals) = word.iter().position(|byte| *byte == b'=') {
        let (name, value) = word.split_at(equals);
        scope.set(name, value.get(1..).unwrap_or_default().to_vec());
    }
}

/// The title and `--id` among the arguments of `menuentry`.
fn title_and_id(arguments: &[Vec<u8>]) -> (String, Option<String>) {
    let (mut title, mut id) = (None, None);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if let Some(value) = argument.strip_prefix(b"--id=") {
            id = Some(lossy(value));
        } else if argument == b"--id" {
            id = arguments.next().map(|value| lossy(value));
        } else if [&b"--class"[..], b"--users", b"--hotkey", b"--source"].contains(&&**argument) {
            arguments.next();
        } else if !argument.starts_with(b"--") && title.is_none() {
            title = Some(lossy(argument));
        }
    }
    (title.unwrap_or_default(), id)
}

/// `search [--set[=VARIABLE]] --fs-uuid|--label|--file [hints] NAME`: the variable then names what it would find.
fn search(arguments: &[Vec<u8>], scope: &mut Scope) {
    let (mut variable, mut kind, mut wanted) = (None, None, None);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match &**argument {
            b"--fs-uuid" | b"-u" => kind = Some(&b"fs-uuid/"[..]),
            b"--label" | b"--fs-label" | b"-l" => kind = Some(b"fs-label/"),
            b"--file" | b"-f" => kind = Some(b"fs-file/"),
            b"--set" | b"-s" => variable = Some(&b"root"[..]),
            b"--hint" | b"--hint-bios" | b"--hint-efi" | b"--hint-baremetal" | b"--hint-ieee1275"
            | b"--hint-arc" => {
                arguments.next();
            }
            argument => {
                if let Some(name) = argument.strip_prefix(b"--set=") {
                    variable = Some(name);
                } else if !argument.starts_with(b"-") && wanted.is_none() {
                    wanted = Some(argument);
                }
            }
        }
    }
    if let (Some(variable), Some(kind), Some(wanted)) = (variable, kind, wanted) {
        scope.set(variable, [kind, wanted].concat());
    }
}

/// `search.fs_uuid NAME [VARIABLE] [hints]`.
fn search_as(kind: &[u8], arguments: &[Vec<u8>], scope: &mut Scope) {
    if let Some(wanted) = arguments.first() {
        let variable = arguments.get(1).map_or(&b"root"[..], |name| name);
        scope.set(variable, [kind, wanted].concat());
    }
}

fn grub_file(path: &[u8], scope: &Scope) -> GrubFile {
    let split = path.strip_prefix(b"(").and_then(|inside| {
        let end = inside.iter().position(|byte| *byte == b')')?;
        Some((inside.get(..end)?.to_vec(), inside.get(end.saturating_add(1)..)?))
    });
    let (device, path) = match split {
        Some((device, path)) => (device, path),
        None => (scope.get(b"root"), path),
    };
    GrubFile {
        device: grub_device(&device),
        path: path.to_vec(),
    }
}

fn grub_device(name: &[u8]) -> GrubDevice {
    let name = name.strip_prefix(b"(").unwrap_or(name);
    let name = name.strip_suffix(b")").unwrap_or(name);
    if let Some(uuid) = name.strip_prefix(b"fs-uuid/") {
        GrubDevice::Uuid(lossy(uuid))
    } else if let Some(label) = name.strip_prefix(b"fs-label/") {
        GrubDevice::Label(lossy(label))
    } else if let Some(file) = name.strip_prefix(b"fs-file/") {
        GrubDevice::HasFile(lossy(file))
    } else if name.is_empty() {
        GrubDevice::Own
    } else {
        GrubDevice::Disk(lossy(name))
    }
}

/// The entry that `default` names: a number, an id or a title at each level, the levels between `>` (`>>` is a
/// plain one). Something that names nothing is the first entry, as in GRUB.
fn chosen(menu: &[Item], choice: &[u8]) -> Option<usize> {
    let choice = lossy(choice);
    let (first, rest) = match_levels(&choice);
    let number = first.trim().parse::<usize>().ok();
    let named = |item: &&Item| item.title == first || item.id.as_ref() == Some(&first);
    let item = match number {
        Some(number) => menu.get(number),
        None => menu.iter().find(named),
    };
    let item = item.or_else(|| menu.first())?;
    match item.entry {
        Some(entry) => Some(entry),
        None => chosen(&item.submenu, rest.as_bytes()),
    }
}

/// The first level of a choice, and what follows it.
fn match_levels(choice: &str) -> (String, &str) {
    let mut first = String::new();
    let mut rest = choice;
    while let Some((before, after)) = rest.split_once('>') {
        first.push_str(before);
        match after.strip_prefix('>') {
            Some(doubled) => {
                first.push('>');
                rest = doubled;
            }
            None => return (first, after),
        }
    }
    first.push_str(rest);
    (first, "")
}

#[cfg(test)]
mod tests;

//! Starts a machine, follows its console, says how far it came, and ends it.

use super::{Accelerator, QemuError, Verdict, command, console::Console, verdict};
use crate::output::virtual_machine::VirtualMachine;
use std::{
    collections::VecDeque,
    io::Read,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

/// How a machine is started, and how long is waited.
#[derive(Clone, Debug)]
pub struct BootOptions {
    /// After that it is ended, whatever it does.
    pub timeout: Duration,
    /// Memory in MiB; absent: the machine's own, at most 1024.
    pub memory_mib: Option<u64>,
    /// Processors; absent: the machine's own, at most 2.
    pub processors: Option<u32>,
    /// What runs it.
    pub accelerator: Accelerator,
    /// A text that alone counts as booted; absent: a login prompt or systemd's last targets.
    pub marker: Option<String>,
}

impl Default for BootOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(300),
            memory_mib: None,
            processors: None,
            accelerator: Accelerator::Detect,
            marker: None,
        }
    }
}

/// How a start went.
#[derive(Clone, Debug)]
pub struct BootReport {
    /// How far the guest came.
    pub verdict: Verdict,
    /// The last lines of its console, oldest first, as plain text.
    pub last_lines: Vec<String>,
    /// What ran it.
    pub accelerator: Accelerator,
    /// How long it took to decide.
    pub elapsed: Duration,
}

/// Lines that a person reads to see what happened.
const LAST_LINES: usize = 40;

/// After the line that decides, the sentences that explain it still come.
const EXPLANATION: Duration = Duration::from_millis(800);

/// Starts `machine` on throw-away snapshots of its disks; its network ends at QEMU. Every line of its console goes to
/// `on_line` as it comes; `false` from there ends the machine ([`Verdict::Stopped`]).
///
/// # Errors
/// When the machine could not be started at all. How the guest fared is in the report.
pub fn boot(
    machine: &VirtualMachine,
    options: &BootOptions,
    on_line: &mut dyn FnMut(&str) -> bool,
) -> Result<BootReport, QemuError> {
    let accelerator = options.accelerator.settled();
    if accelerator == Accelerator::Tcg {
        return translated(machine, options, on_line);
    }
    if options.accelerator == Accelerator::Detect {
        let report = attempt(machine, options, accelerator, Some(KVM_PATIENCE), on_line)?;
        if report.verdict != Verdict::Silent {
            return Ok(report);
        }
        on_line("(nothing from a kernel under KVM: the guest is started again under QEMU's translator)");
        return translated(machine, options, on_line);
    }
    attempt(machine, options, accelerator, None, on_line)
}

/// Linux waits for ten ticks of the oldest timer and panics without them (`check_timer` of `arch/x86/kernel/apic/io_apic.c`); on
/// a busy host QEMU's translator cannot give them all.
const LOST_TICKS: &str = "IO-APIC + timer doesn't work";

/// More tries than this on a host that is busy for good would only take its time.
const MOST_TRIES: usize = 4;

/// Under the translator: again, if the host was too busy for the guest's timer.
fn translated(
    machine: &VirtualMachine,
    options: &BootOptions,
    on_line: &mut dyn FnMut(&str) -> bool,
) -> Result<BootReport, QemuError> {
    let mut tries = 1;
    loop {
        let report = attempt(machine, options, Accelerator::Tcg, None, on_line)?;
        let lost = |line: &String| line.contains(LOST_TICKS);
        if tries == MOST_TRIES || report.verdict != Verdict::Panic || !report.last_lines.iter().any(lost) {
            return Ok(report);
        }
        tries += 1;
        on_line("(this host was too busy for the guest's timer: the guest is started again)");
    }
}

/// There are machines where KVM runs the firmware and then hangs. A kernel speaks long before this.
const KVM_PATIENCE: Duration = Duration::from_secs(25);

/// One start. With `patience`, it counts as silent if nothing that only a kernel or its system prints has come after so
/// long: what a boot loader prints may be cut anywhere, so its lines prove nothing.
fn attempt(
    machine: &VirtualMachine,
    options: &BootOptions,
    accelerator: Accelerator,
    patience: Option<Duration>,
    on_line: &mut dyn FnMut(&str) -> bool,
) -> Result<BootReport, QemuError> {
    let memory_mib = options.memory_mib.unwrap_or(machine.memory_mib.min(1024));
    let processors = options.processors.unwrap_or(machine.processors.clamp(1, 2));
    let command = command::command(machine, accelerator, memory_mib, processors)?;
    let begin = Instant::now();
    let deadline = begin.checked_add(options.timeout).unwrap_or(begin);
    let mut running = Running::start(command)?;
    let mut watcher = Watcher {
        console: Console::new(),
        marker: options.marker.as_deref(),
        last_lines: VecDeque::new(),
        verdict: None,
        only_early_lines: true,
        kernel_speaks: false,
        stopped: false,
    };
    let mut ended = false;
    let impatient = patience
        .and_then(|patience| begin.checked_add(patience))
        .map(|impatient| impatient.min(deadline));
    loop {
        let undecided = impatient.filter(|_| !watcher.kernel_speaks).unwrap_or(deadline);
        let until = watcher.verdict.map_or(undecided, |(_, decided)| {
            decided.checked_add(EXPLANATION).unwrap_or(decided)
        });
        let Some(bytes) = running.read_until(until) else {
            break;
        };
        if bytes.is_empty() {
            ended = true;
            break;
        }
        watcher.feed(&bytes, on_line);
        if watcher.stopped {
            break;
        }
    }
    watcher.last_prompt(on_line);
    if ended && let Some(message) = running.refusal() {
        if watcher.last_lines.is_empty() {
            return Err(QemuError::Refused {
                program: command::PROGRAM.into(),
                message,
            });
        }
        watcher.keep(message, on_line);
    }
    let verdict = match watcher.verdict {
        Some((verdict, _)) => verdict,
        None if watcher.stopped || ended => Verdict::Stopped,
        None if watcher.only_early_lines || (patience.is_some() && !watcher.kernel_speaks) => Verdict::Silent,
        None => Verdict::TimedOut,
    };
    let elapsed = watcher.verdict.map_or_else(Instant::now, |(_, decided)| decided) - begin;
    Ok(BootReport {
        verdict,
        last_lines: watcher.last_lines.into(),
        accelerator,
        elapsed,
    })
}

/// What was seen so far.
struct Watcher<'a> {
    console: Console,
    marker: Option<&'a str>,
    last_lines: VecDeque<String>,
    verdict: Option<(Verdict, Instant)>,
    only_early_lines: bool,
    kernel_speaks: bool,
    stopped: bool,
}

impl Watcher<'_> {
    fn feed(&mut self, bytes: &[u8], on_line: &mut dyn FnMut(&str) -> bool) {
        for line in self.console.feed(bytes) {
            self.judge(&line);
            self.only_early_lines &= verdict::is_before_the_kernel(&line);
            self.kernel_speaks |= verdict::is_of_a_kernel(&line);
            self.keep(line, on_line);
        }
        // A prompt is a line that never ends.
        let partial = self.console.partial();
        self.judge(&partial);
    }

    fn judge(&mut self, line: &str) {
        if self.verdict.is_none() {
            self.verdict = verdict::of_line(line, self.marker).map(|verdict| (verdict, Instant::now()));
        }
    }

    fn keep(&mut self, line: String, on_line: &mut dyn FnMut(&str) -> bool) {
        if !on_line(&line) {
            self.stopped = true;
        }
        self.last_lines.push_back(line);
        if self.last_lines.len() > LAST_LINES {
            self.last_lines.pop_front();
        }
    }

    fn last_prompt(&mut self, on_line: &mut dyn FnMut(&str) -> bool) {
        let partial = self.console.partial();
        if !partial.trim().is_empty() {
            self.only_early_lines &= verdict::is_before_the_kernel(&partial);
            self.keep(partial, on_line);
        }
    }
}

/// A QEMU that is ended when this is dropped, whatever happens before.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    output: Receiver<Vec<u8>>,
    messages: Receiver<Vec<u8>>,
}

/// Chunks of console that wait for us; a guest that prints faster than it is read waits itself.
const CHUNKS: usize = 64;

/// What is kept of QEMU's own messages: chunks, of at most 4 KiB each.
const MESSAGE_CHUNKS: usize = 16;

/// A process that hangs in the kernel (KVM does, on some machines) cannot be waited for.
const LONGEST_FAREWELL: Duration = Duration::from_secs(2);

impl Running {
    pub(super) fn start(mut command: Command) -> Result<Self, QemuError> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|cause| QemuError::Start {
                program: command.get_program().to_string_lossy().into_owned(),
                cause,
            })?;
        let (to_output, output) = sync_channel(CHUNKS);
        let (to_messages, messages) = sync_channel(MESSAGE_CHUNKS);
        if let Some(mut stdout) = child.stdout.take() {
            thread::spawn(
                move || while read(&mut stdout).is_some_and(|bytes| to_output.send(bytes).is_ok()) {},
            );
        }
        if let Some(mut stderr) = child.stderr.take() {
            // Read to the end even when nobody keeps it: a full pipe would stop the machine.
            thread::spawn(move || {
                while let Some(bytes) = read(&mut stderr) {
                    let _ = to_messages.try_send(bytes);
                }
            });
        }
        Ok(Self {
            child,
            output,
            messages,
        })
    }

    /// The next bytes of the console; empty: it has ended; `None`: the time has come.
    pub(super) fn read_until(&self, deadline: Instant) -> Option<Vec<u8>> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Without this a guest that prints without end would be read without end.
            return None;
        }
        match self.output.recv_timeout(left) {
            Ok(bytes) => Some(bytes),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Vec::new()),
        }
    }

    /// Why QEMU ended, in its own words, if it ended with an error.
    fn refusal(&mut self) -> Option<String> {
        let status = self.wait()?;
        if status.success() {
            return None;
        }
        let mut message = Vec::new();
        while let Ok(bytes) = self.messages.recv_timeout(Duration::from_millis(200)) {
            message.extend_from_slice(&bytes);
        }
        let text = String::from_utf8_lossy(&message).trim().to_owned();
        Some(if text.is_empty() { status.to_string() } else { text })
    }

    fn wait(&mut self) -> Option<std::process::ExitStatus> {
        let deadline = Instant::now() + LONGEST_FAREWELL;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(10)),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.wait();
    }
}

/// Some bytes; `None` at the end.
fn read(from: &mut impl Read) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return None,
            Ok(length) => {
                buffer.truncate(length);
                return Some(buffer);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        machine::Firmware,
        output::virtual_machine::{DiskImage, DiskPlace},
        plan::Adapter,
    };
    use std::path::Path;

    /// A boot sector that prints through the BIOS and halts.
    fn prints(text: &[u8]) -> Vec<u8> {
        let mut sector = vec![
            0x31, 0xc0, 0x8e, 0xd8, // ds = 0
            0xbe, 0x18, 0x7c, // si = the text
            0xac, 0x84, 0xc0, 0x74, 0x09, // next byte, or
            0xb4, 0x0e, 0xbb, 0x07, 0x00, 0xcd, 0x10, // print it
            0xeb, 0xf2, // again
            0xf4, 0xeb, 0xfd, // halt
        ];
        sector.extend_from_slice(text);
        sector.resize(510, 0);
        sector.extend_from_slice(&[0x55, 0xaa]);
        sector.resize(1 << 20, 0);
        sector
    }

    fn machine(controller: &str, disks: &[&Path]) -> VirtualMachine {
        VirtualMachine {
            name: "test".into(),
            architecture: "x86_64".into(),
            model: "q35".into(),
            firmware: Firmware::Bios,
            controller: controller.into(),
            disks: disks
                .iter()
                .map(|path| DiskImage {
                    place: DiskPlace::File(path.to_path_buf()),
                    format: "raw".into(),
                })
                .collect(),
            adapters: [("virtio-net", "0000:01:00.0"), ("e1000e", "0000:02:00.0")]
                .map(|(model, pci_address)| Adapter {
                    model: model.into(),
                    interface: None,
                    mac: "52:54:00:00:00:01".into(),
                    pci_address: pci_address.into(),
                })
                .to_vec(),
            devices: vec!["virtio-rng".into()],
            memory_mib: 64,
            processors: 1,
        }
    }

    fn options() -> BootOptions {
        BootOptions {
            timeout: Duration::from_secs(40),
            accelerator: Accelerator::Tcg,
            ..BootOptions::default()
        }
    }

    #[test]
    fn what_a_boot_sector_prints_decides_on_every_controller() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("odd, name: it's.img");
        std::fs::write(
            &disk,
            prints(b"hello\r\n[ 1.0] Kernel panic - not syncing: VFS\r\nwhy\r\n"),
        )
        .unwrap();
        let before = std::fs::read(&disk).unwrap();
        for controller in ["virtio-blk", "virtio-scsi", "ahci", "nvme"] {
            let mut lines = Vec::new();
            let report = boot(&machine(controller, &[&disk]), &options(), &mut |line| {
                lines.push(line.to_owned());
                true
            })
            .unwrap();
            assert_eq!(report.verdict, Verdict::Panic, "{controller}: {lines:?}");
            assert_eq!(report.last_lines.last().unwrap(), "why", "{controller}");
            assert!(
                report.last_lines.iter().any(|line| line == "hello"),
                "{controller}: {lines:?}"
            );
        }
        assert_eq!(std::fs::read(&disk).unwrap(), before);
    }

    #[test]
    fn a_guest_whose_timer_was_lost_is_started_again_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.img");
        std::fs::write(
            &disk,
            prints(b"Kernel panic - not syncing: IO-APIC + timer doesn't work!\r\n"),
        )
        .unwrap();
        let mut starts = 0;
        let report = boot(&machine("ahci", &[&disk]), &options(), &mut |line| {
            starts += usize::from(line.contains(LOST_TICKS));
            true
        })
        .unwrap();
        assert_eq!((report.verdict, starts), (Verdict::Panic, MOST_TRIES));
    }

    #[test]
    fn an_empty_disk_has_no_boot_loader_under_either_firmware() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("empty.img");
        std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
        for firmware in [Firmware::Bios, Firmware::Uefi] {
            let mut machine = machine("virtio-blk", &[&disk]);
            machine.firmware = firmware;
            machine.memory_mib = 256;
            let report = boot(&machine, &options(), &mut |_| true).unwrap();
            assert_eq!(
                report.verdict,
                Verdict::NoBootLoader,
                "{firmware:?}: {:#?}",
                report.last_lines
            );
        }
    }

    #[test]
    fn time_ends_a_guest_that_says_nothing_and_one_that_never_stops() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.img");
        let short = BootOptions {
            timeout: Duration::from_secs(5),
            ..options()
        };
        std::fs::write(&disk, prints(b"")).unwrap();
        let report = boot(&machine("ahci", &[&disk]), &short, &mut |_| true).unwrap();
        assert_eq!(report.verdict, Verdict::Silent, "{:#?}", report.last_lines);
        // jmp to the start: the same line for ever.
        let mut sector = prints(b"again and again\r\n");
        sector[0x15..0x18].copy_from_slice(&[0xeb, 0xe9, 0x90]);
        std::fs::write(&disk, sector).unwrap();
        let begin = Instant::now();
        let report = boot(&machine("ahci", &[&disk]), &short, &mut |_| true).unwrap();
        assert_eq!(report.verdict, Verdict::TimedOut, "{:#?}", report.last_lines);
        assert!(begin.elapsed() < Duration::from_secs(15));
        assert_eq!(report.last_lines.len(), LAST_LINES);
        let report = boot(&machine("ahci", &[&disk]), &short, &mut |line| {
            !line.contains("again")
        })
        .unwrap();
        assert_eq!(report.verdict, Verdict::Stopped);
    }

    #[test]
    fn what_cannot_be_started_is_an_error_with_its_reason() {
        let missing = machine("ahci", &[Path::new("/nowhere/disk.img")]);
        let error = boot(&missing, &options(), &mut |_| true).unwrap_err();
        assert!(error.to_string().contains("/nowhere/disk.img"), "{error}");

        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.img");
        std::fs::write(&disk, prints(b"")).unwrap();
        let mut broken = machine("ahci", &[&disk]);
        broken.disks[0].format = "qcow2".into();
        let error = boot(&broken, &options(), &mut |_| true).unwrap_err();
        assert!(matches!(error, QemuError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("qcow2"), "{error}");

        assert!(matches!(
            boot(&machine("floppy", &[&disk]), &options(), &mut |_| true),
            Err(QemuError::Model { .. })
        ));
    }
}

//! Which signals stop a job, and which pass it by.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

const HALF: usize = 2 << 20;

/// A copy from a pipe that has come to its half and waits for the rest.
struct Waiting {
    child: Child,
    input: ChildStdin,
    errors: Box<dyn BufRead>,
}

impl Waiting {
    /// The signal `ignored` is ignored from the start, as by `nohup` or a shell, and no other one, whatever started us.
    fn start(out: &Path, ignored: &str) -> Self {
        let mut program = Command::new("env");
        program.arg("--default-signal=HUP,INT,TERM");
        if !ignored.is_empty() {
            program.arg(format!("--ignore-signal={ignored}"));
        }
        let size = (2 * HALF).to_string();
        let mut child = program
            .arg(env!("CARGO_BIN_EXE_rehome"))
            .args([
                "image",
                "convert",
                "--progress",
                "json",
                "-f",
                "raw",
                "--size",
                &size,
                "-",
            ])
            .arg(out)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut errors: Box<dyn BufRead> = Box::new(BufReader::new(child.stderr.take().unwrap()));
        input.write_all(&vec![1; HALF]).unwrap();
        // By then it has said which signals it wants.
        let mut line = String::new();
        while !line.contains("\"copy\"") {
            line.clear();
            assert_ne!(errors.read_line(&mut line).unwrap(), 0, "it ended early");
        }
        Self { child, input, errors }
    }

    /// Returns when the signal has arrived.
    fn signal(&self, name: &str) {
        let id = self.child.id();
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -s {name} {id}")])
            .status();
        assert!(sent.unwrap().success());
        let status = format!("/proc/{id}/status");
        while is_pending(&fs::read_to_string(&status).unwrap()) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The rest comes; how does it end, and what has it said?
    fn ends(mut self) -> (ExitStatus, String) {
        // Whoever was stopped reads no more.
        let _ = self.input.write_all(&vec![2; HALF]);
        drop(self.input);
        let mut said = String::new();
        self.errors.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap(), said)
    }
}

fn is_pending(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    mask.is_some_and(|mask| mask.trim().contains(|digit| digit != '0'))
}

#[test]
fn what_was_ignored_at_the_start_stays_ignored() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["HUP", "INT", "TERM"] {
        let out = folder.path().join(name);
        let job = Waiting::start(&out, name);
        job.signal(name);
        // A second one would end it at once.
        job.signal(name);
        let (status, said) = job.ends();
        assert!(status.success(), "{name}: {status} {said}");
        let bytes = fs::read(&out).unwrap();
        assert!(bytes[..HALF].iter().all(|byte| *byte == 1) && bytes[HALF..].iter().all(|byte| *byte == 2));
    }
}

#[test]
fn other_signals_stop_a_job_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for (ignored, name) in [("", "HUP"), ("", "INT"), ("HUP", "TERM"), ("INT", "HUP")] {
        let out = folder.path().join("out.raw");
        let job = Waiting::start(&out, ignored);
        job.signal(name);
        let (status, said) = job.ends();
        assert_eq!(status.code(), Some(1), "{name}: {said}");
        assert!(said.contains("cancelled"), "{name}: {said}");
        assert!(!out.exists());
        let _ = fs::remove_dir_all(folder.path().join(".out.raw.rehome-work"));
    }
}
